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

{{/*
The name of .image. The registry goes before a repository that names none itself: its first part, where it has
several, holds no dot and no colon, and is not localhost (as in image references everywhere).
*/}}
{{- define "egress-router.image" -}}
{{- $registry := (.root.Values.global | default dict).imageRegistry | default .root.Values.images.registry -}}
{{- $repository := .image.repository -}}
{{- if and $registry (not (regexMatch "^([^/]*[.:][^/]*|localhost)/" $repository)) -}}
  {{- $repository = printf "%s/%s" (trimSuffix "/" $registry) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) -}}
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

{{/*
Whether there is a NetworkPolicy. With `auto` there is one where it cannot take anything away from anybody: where it is
known from here which ports are served (no existing ConfigMap, which may name more tomorrow, and no fallback line, which
takes protocols that no policy can name), and who reads the metrics (nobody, or networkPolicy.monitoringFrom says who).
*/}}
{{- define "egress-router.guarded" -}}
{{- $policy := .Values.networkPolicy -}}
{{- if ne (toString $policy.enabled) "auto" -}}
  {{- if $policy.enabled }}true{{ end -}}
{{- else if or $policy.from $policy.monitoringFrom -}}
  true
{{- else if .Values.serviceMonitor.enabled -}}
{{- else if hasKey .Values.podAnnotations "prometheus.io/scrape" -}}
{{- else if eq .Values.mode "http-proxy" -}}
  true
{{- else if .Values.destinations -}}
  {{- $fallback := false -}}
  {{- range include "egress-router.open" . | fromYamlArray }}{{ if .fallback }}{{ $fallback = true }}{{ end }}{{ end -}}
  {{- if not $fallback }}true{{ end -}}
{{- end -}}
{{- end -}}
