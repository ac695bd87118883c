{{/*
One release may have several routers. Each is rendered with its own values: those of the release, overridden by those
of routers.NAME. Included templates get them as .Values, and the router's name (empty: the only one) as .router.
.[0] is the chart's root, .[1] the name of what is rendered for each of them.
*/}}
{{- define "egress-router.each" -}}
{{- $root := index . 0 -}}
{{- $what := index . 1 -}}
{{- $separator := "---" -}}
{{- if gt (len .) 2 }}{{ $separator = index . 2 }}{{ end -}}
{{- $shared := dict "Release" $root.Release "Chart" $root.Chart "Capabilities" $root.Capabilities "Files" $root.Files -}}
{{- range $name := keys ($root.Values.routers | default (dict "" dict)) | sortAlpha -}}
{{- $values := omit $root.Values "routers" | deepCopy -}}
{{- $own := get ($root.Values.routers | default dict) $name | default dict | deepCopy -}}
{{- $router := merge (dict "Values" (mustMergeOverwrite $values $own) "router" $name) $shared -}}
{{- with $values.sources -}}
  {{- if $values.source -}}
    {{- include "egress-router.refuse" (list $router "give either source or sources, not both") -}}
  {{- end -}}
  {{- $_ := set $values "source" (join "," .) -}}
{{- end -}}
{{- include "egress-router.validate" $router }}
{{ $separator }}
{{ include $what $router }}
{{ end -}}
{{- end -}}

{{/* Refuse values: .[0] says which router has them, .[1] why. */}}
{{- define "egress-router.refuse" -}}
{{- $router := (index . 0).router -}}
{{- fail (printf "%s%s" (ternary (printf "routers.%s: " $router) "" (ne $router "")) (index . 1)) -}}
{{- end -}}

{{- define "egress-router.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "egress-router.fullname" -}}
{{- $name := include "egress-router.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full = .Values.fullnameOverride | default $full -}}
{{- ternary (printf "%s-%s" $full .router) $full (ne .router "") | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "egress-router.selector" -}}
app.kubernetes.io/name: {{ include "egress-router.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- with .router }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* The labels of pods that are no router: no selector of the router may match them, else clients are sent there. */}}
{{- define "egress-router.testSelector" -}}
app.kubernetes.io/name: {{ include "egress-router.name" . | trunc 58 }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- with .router }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "egress-router.labels" -}}
{{ include "egress-router.selector" . }}
{{ include "egress-router.commonLabels" . }}
{{- end -}}

{{- define "egress-router.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: egress-router
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The metadata of every object: its name, labels and annotations; .[1] is added to the name. */}}
{{- define "egress-router.metadata" -}}
{{- $router := index . 0 -}}
{{- $suffix := index . 1 -}}
name: {{ printf "%s%s" (include "egress-router.fullname" $router | trunc (sub 63 (len $suffix) | int) | trimSuffix "-") $suffix }}
namespace: {{ $router.Release.Namespace }}
labels:
  {{- include "egress-router.labels" $router | nindent 2 }}
{{- with $router.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "egress-router.serviceAccountName" -}}
{{- $own := include "egress-router.fullname" . -}}
{{- .Values.serviceAccount.name | default (ternary $own "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "egress-router.pullSecrets" -}}
{{- $secrets := concat ((.Values.global | default dict).imagePullSecrets | default list) .Values.images.pullSecrets -}}
{{- with $secrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The name of .image. The registry is put before a repository that names none itself: a first part of several names one
if it has a dot or a colon, or is localhost (as in image references everywhere).
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

{{/* The image of the container that keeps running in this mode. */}}
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

{{/* Whether a container of the program keeps running, with its administration endpoint; else it is a pause container. */}}
{{- define "egress-router.stays" -}}
{{- if or (ne .Values.mode "redirect") .Values.redirect.live }}true{{ end -}}
{{- end -}}

{{/* Whether the pods write the EndpointSlice that makes the Service lead to the active pod. */}}
{{- define "egress-router.leads" -}}
{{- if and .Values.standby.enabled .Values.standby.service }}true{{ end -}}
{{- end -}}

{{/* Whether the pods of a standby pair use objects of the cluster. */}}
{{- define "egress-router.usesCluster" -}}
{{- if and .Values.standby.enabled (or .Values.standby.lease .Values.standby.service) }}true{{ end -}}
{{- end -}}

{{/* Whether setup keeps running beside a proxy, because it keeps the fence of a standby pair. */}}
{{- define "egress-router.besideProxy" -}}
{{- if and .Values.standby.enabled (ne .Values.mode "redirect") }}true{{ end -}}
{{- end -}}

{{- define "egress-router.tested" -}}
{{- if and .Values.test.enabled (include "egress-router.stays" .) }}true{{ end -}}
{{- end -}}

{{/*
Whether there is a NetworkPolicy. With `auto` there is one if it cannot cut off any client: if it is known here which
ports are served (no existing ConfigMap, which may name more later, and no fallback line, which takes protocols that no
policy can name), and who reads the metrics (nobody, or networkPolicy.monitoringFrom says who).
*/}}
{{- define "egress-router.guarded" -}}
{{- $policy := .Values.networkPolicy -}}
{{- if ne (toString $policy.enabled) "auto" -}}
  {{- if $policy.enabled }}true{{ end -}}
{{- else if or $policy.from $policy.monitoringFrom -}}
  true
{{- else if .Values.serviceMonitor.enabled -}}
{{- else if hasKey .Values.podAnnotations "prometheus.io/scrape" -}}
{{- else if and .Values.also.mode (ne .Values.also.mode "http-proxy") (not .Values.also.destinations) -}}
{{- else if eq .Values.mode "http-proxy" -}}
  true
{{- else if .Values.destinations -}}
  {{- $fallback := false -}}
  {{- range include "egress-router.open" . | fromYamlArray }}{{ if .fallback }}{{ $fallback = true }}{{ end }}{{ end -}}
  {{- if not $fallback }}true{{ end -}}
{{- end -}}
{{- end -}}

{{/* The security context of a container that needs no privilege; Pod Security's level `restricted` admits it. */}}
{{- define "egress-router.restricted" -}}
runAsNonRoot: true
{{- if and (eq .Values.mode "redirect") (not (.Capabilities.APIVersions.Has "security.openshift.io/v1")) }}
# The router's image runs as root. On OpenShift the restricted SCC chooses a user, and refuses any other.
runAsUser: 65534
{{- end }}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "egress-router.hasAdminRules" -}}
{{- if or .Values.adminRules.inline .Values.adminRules.existingConfigMap.name }}true{{ end -}}
{{- end -}}

{{- define "egress-router.hasPolicy" -}}
{{- if or .Values.policy.inline .Values.policy.existingConfigMap.name }}true{{ end -}}
{{- end -}}

{{/*
A second proxy in the same pod, on the same source address: .out.router is set to the context for its templates. Its
rules come from a separate volume, and it has its own administration port.
*/}}
{{- define "egress-router.also" -}}
{{- $router := .router -}}
{{- $own := $router.Values.also -}}
{{- if $own.mode -}}
{{- $values := mustMergeOverwrite (deepCopy $router.Values) (dict
  "mode" $own.mode "destinations" $own.destinations "existingConfigMap" (deepCopy $own.existingConfigMap)
  "ports" $own.ports "admin" (dict "port" $own.adminPort) "env" (deepCopy $own.env) "extraEnv" list "also" (dict "mode" "")) -}}
{{- $_ := set .out "router" (merge (dict "Values" $values "volume" "also-destinations") (omit $router "Values")) -}}
{{- end -}}
{{- end -}}
