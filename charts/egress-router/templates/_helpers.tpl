{{- define "egress-router.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "egress-router.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of the test's pod: no selector of the router's may match it, or clients are sent to it. */}}
{{- define "egress-router.testSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "egress-router.labels" -}}
{{ include "egress-router.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "egress-router.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The image of what stays in the mode. */}}
{{- define "egress-router.mainImage" -}}
{{- $images := dict "redirect" .Values.images.router "http-proxy" .Values.images.httpProxy "dns-proxy" .Values.images.dnsProxy -}}
{{- include "egress-router.image" (dict "image" (get $images .Values.mode) "root" .) -}}
{{- end -}}

{{- define "egress-router.configMap" -}}
{{- .Values.existingConfigMap.name | default (include "egress-router.fullname" .) -}}
{{- end -}}

{{- define "egress-router.network" -}}
{{- .Values.interface.multus.network | default (include "egress-router.fullname" .) -}}
{{- end -}}

{{/* Whether a container of the program stays, with its administration endpoint; else a pause container does. */}}
{{- define "egress-router.stays" -}}
{{- if or (ne .Values.mode "redirect") .Values.redirect.live }}true{{ end -}}
{{- end -}}

{{- define "egress-router.tested" -}}
{{- if and .Values.test.enabled (include "egress-router.stays" .) }}true{{ end -}}
{{- end -}}
