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

{{- define "egress-router.labels" -}}
{{ include "egress-router.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "egress-router.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{- define "egress-router.configMap" -}}
{{- .Values.existingConfigMap.name | default (include "egress-router.fullname" .) -}}
{{- end -}}

{{- define "egress-router.network" -}}
{{- .Values.interface.multus.network | default (include "egress-router.fullname" .) -}}
{{- end -}}

{{/* The ports of the Service as YAML: given, the proxy's, or the local ports that the rules name. */}}
{{- define "egress-router.ports" -}}
{{- if .Values.ports -}}
{{- range .Values.ports }}
- name: {{ .name }}
  port: {{ .port }}
  protocol: {{ .protocol | default "TCP" }}
{{- end -}}
{{- else if eq .Values.mode "http-proxy" }}
- name: http-proxy
  port: {{ .Values.httpProxy.port }}
  protocol: TCP
{{- else -}}
{{- $redirect := eq .Values.mode "redirect" -}}
{{- range $line := splitList "\n" .Values.destinations -}}
{{- $words := regexSplit "\\s+" (regexReplaceAll "(^|\\s)#.*$" $line "" | trim) -1 -}}
{{- $port := first $words -}}
{{- if and (regexMatch "^[0-9]+$" $port) (ge (len $words) (ternary 3 2 $redirect)) }}
{{- $protocol := ternary (index $words 1) "tcp" $redirect }}
- name: {{ printf "%s-%s" $protocol $port }}
  port: {{ $port }}
  protocol: {{ upper $protocol }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What values.schema.json cannot say. */}}
{{- define "egress-router.validate" -}}
{{- if and .Values.destinations .Values.existingConfigMap.name -}}
{{- fail "give either destinations or existingConfigMap.name, not both" -}}
{{- end -}}
{{- if not (or .Values.destinations .Values.existingConfigMap.name) -}}
{{- fail "no rules: give destinations, or existingConfigMap.name" -}}
{{- end -}}
{{- if and (eq .Values.interface.provider "multus") (not .Values.interface.multus.create) (not .Values.interface.multus.network) -}}
{{- fail "interface.provider is multus: name the network in interface.multus.network, or set interface.multus.create" -}}
{{- end -}}
{{- if and .Values.prometheusRule.enabled (not .Values.serviceMonitor.enabled) -}}
{{- fail "prometheusRule needs serviceMonitor: its alerts are about the metrics that the monitor has scraped" -}}
{{- end -}}
{{- $forwarding := false -}}
{{- range .Values.sysctls }}{{ if eq .name "net.ipv4.ip_forward" }}{{ $forwarding = true }}{{ end }}{{ end -}}
{{- if and (eq .Values.mode "redirect") (not (include "egress-router.privileged" .)) (not $forwarding) -}}
{{- fail "redirect mode needs IP forwarding: give net.ipv4.ip_forward in sysctls, or set setup.privileged" -}}
{{- end -}}
{{- if not (include "egress-router.ports" . | trim) -}}
{{- fail "the rules name no single local port for the Service (a fallback, a range or an existing ConfigMap): list them in ports" -}}
{{- end -}}
{{- end -}}
