{{/* Environment of `setup`; .kind is EGRESS_ROUTER_MODE; .stays says that this container keeps running. */}}
{{- define "egress-router.setupEnv" -}}
{{- $values := .root.Values -}}
- name: EGRESS_SOURCE
  value: {{ $values.source | quote }}
- name: EGRESS_GATEWAY
  value: {{ $values.gateway | quote }}
- name: EGRESS_ROUTER_MODE
  value: {{ .kind }}
- name: EGRESS_INTERFACE
  value: {{ $values.interface.name | quote }}
- name: EGRESS_MACVLAN_MODE
  value: {{ $values.interface.macvlanMode }}
- name: EGRESS_ADMIN_PORT
  value: {{ $values.admin.port | int64 | quote }}
- name: EGRESS_CLAIM_TIMEOUT
  value: {{ $values.setup.claimTimeoutSeconds | int64 | quote }}
{{- with $values.interface.parent }}
- name: EGRESS_PARENT_INTERFACE
  value: {{ . | quote }}
{{- end }}
{{- if include "egress-router.makesInterface" . }}
- name: EGRESS_PARENT_NETNS
  value: /node-ns/net
{{- end }}
{{- if $values.standby.enabled }}
{{ include "egress-router.standbyEnv" . }}
{{- end }}
{{- with $values.clusterCidrs }}
- name: EGRESS_CLUSTER_CIDRS
  value: {{ . | quote }}
{{- end }}
{{- if has .kind (list "init" "legacy") }}
- name: EGRESS_DESTINATION_FILE
  value: /etc/egress-router/destinations
{{- if include "egress-router.hasPolicy" .root }}
- name: EGRESS_POLICY_FILE
  value: /etc/egress-router-policy/policy
{{- end }}
{{- end }}
{{- if and (ne .kind "network") (include "egress-router.hasAdminRules" .root) }}
- name: EGRESS_ADMIN_RULES_FILE
  value: /etc/egress-router-admin/rules
{{- end }}
{{- if eq .kind "legacy" }}
{{ include "egress-router.longRunningEnv" (dict "root" .root "env" (merge dict $values.env $values.setup.env)) }}
{{- else }}
{{- include "egress-router.moreEnv" $values.setup.env }}
{{- end }}
{{- end -}}

{{/* One that ends sets the fence up, closed. Only one that keeps running opens it, and needs the cluster for that. */}}
{{- define "egress-router.standbyEnv" -}}
{{- $standby := .root.Values.standby -}}
{{- $object := printf "%s/%s" .root.Release.Namespace (include "egress-router.fullname" .root) -}}
- name: EGRESS_STANDBY
  value: "on"
- name: EGRESS_STANDBY_PORT
  value: {{ $standby.port | int64 | quote }}
{{- if and .stays $standby.lease }}
- name: EGRESS_STANDBY_LEASE
  value: {{ $object }}
{{- end }}
{{- if and .stays $standby.service }}
- name: EGRESS_STANDBY_SERVICE
  value: {{ $object }}
{{- end }}
{{- end -}}

{{- define "egress-router.tokenMount" -}}
- name: standby-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end -}}

{{/* A container that runs `setup`: one that ends may be privileged, one that keeps running never is. */}}
{{- define "egress-router.setupContainer" -}}
image: {{ include "egress-router.image" (dict "image" .root.Values.images.router "root" .root) }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
securityContext:
  runAsUser: 0
  runAsNonRoot: false
  {{- if and (not .stays) (include "egress-router.privileged" .root) }}
  privileged: true
  {{- else }}
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: { drop: [ALL], add: [NET_ADMIN, NET_RAW] }
  {{- end }}
  seccompProfile: { type: RuntimeDefault }
terminationMessagePolicy: FallbackToLogsOnError
env:
  {{- include "egress-router.setupEnv" . | nindent 2 }}
  {{- include "egress-router.chartValues" (include "egress-router.setupEnv" .) | nindent 2 }}
  {{- with ternary .root.Values.extraEnv .root.Values.setup.extraEnv (eq .kind "legacy") }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{/* Whether this container of setup makes the interface; one that keeps running finds it, and sees nothing of the node. */}}
{{- define "egress-router.makesInterface" -}}
{{- if and (not .stays) (eq .root.Values.interface.provider "create") }}true{{ end -}}
{{- end -}}

{{/* Whether setup is privileged: to reach into the node's network namespace, or because it was asked for. */}}
{{- define "egress-router.privileged" -}}
{{- if or (eq .Values.interface.provider "create") .Values.setup.privileged }}true{{ end -}}
{{- end -}}

{{/* The pod's sysctls: the given ones, and the one (it is safe) that opens low ports to a forwarder, or to transparent
ports, without root, unless it is among the given ones. */}}
{{- define "egress-router.sysctls" -}}
{{- $given := .Values.sysctls -}}
{{- $lowPorts := dict "name" "net.ipv4.ip_unprivileged_port_start" "value" "0" -}}
{{- $missing := or (has "dns-proxy" (list .Values.mode .Values.also.mode)) .Values.httpProxy.transparentPorts -}}
{{- range $given }}{{ if eq .name $lowPorts.name }}{{ $missing = false }}{{ end }}{{ end -}}
{{- if $missing -}}
{{- $given = prepend $given $lowPorts -}}
{{- end -}}
{{- with $given }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* Environment of every container that keeps running; .env is what the user adds to it. */}}
{{- define "egress-router.longRunningEnv" -}}
- name: EGRESS_DRAIN_SECONDS
  value: {{ .root.Values.drainSeconds | int64 | quote }}
{{- include "egress-router.moreEnv" .env -}}
{{- end -}}

{{- define "egress-router.moreEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end -}}
{{- end -}}

{{/* Port, probes, resources and rules of every container that keeps running. */}}
{{- define "egress-router.longRunning" -}}
ports:
  - name: admin
    containerPort: {{ .Values.admin.port | int64 }}
# Ready within a second of serving; and no liveness probe while setup waits for the address.
startupProbe:
  {{- $startup := dict "httpGet" (dict "path" "/healthz" "port" "admin") "periodSeconds" 1 "failureThreshold" (ternary (add 60 .Values.setup.claimTimeoutSeconds) 60 (eq .Values.mode "redirect")) }}
  {{- merge dict .Values.probes.startup $startup | toYaml | nindent 2 }}
livenessProbe:
  {{- $liveness := dict "httpGet" (dict "path" "/healthz" "port" "admin") "periodSeconds" 10 "failureThreshold" 6 "timeoutSeconds" 5 "terminationGracePeriodSeconds" (.Values.livenessGraceSeconds | int64) }}
  {{- merge dict .Values.probes.liveness $liveness | toYaml | nindent 2 }}
{{- if include "egress-router.leads" . }}
# A pod that stands by counts as ready: the EndpointSlice decides where clients go, and a rollout or a drain goes on
# only when the other pod is ready.
{{- end }}
readinessProbe:
  {{- $readiness := dict "httpGet" (dict "path" (ternary "/readyz?exclude=standby" "/readyz" (eq (include "egress-router.leads" .) "true")) "port" "admin") "periodSeconds" 1 "failureThreshold" 3 "timeoutSeconds" 5 }}
  {{- merge dict .Values.probes.readiness $readiness | toYaml | nindent 2 }}
{{- with .Values.lifecycle }}
lifecycle: {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  {{- include "egress-router.ruleMounts" . | nindent 2 }}
  {{- if and (eq .Values.mode "redirect") (include "egress-router.hasAdminRules" .) }}
  {{- include "egress-router.adminRulesMount" . | nindent 2 }}
  {{- end }}
  {{- if and (eq .Values.mode "redirect") (include "egress-router.usesCluster" .) }}
  {{- include "egress-router.tokenMount" . | nindent 2 }}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{- define "egress-router.ruleMounts" -}}
# The folder, not one file (subPath): only a folder is updated when the ConfigMap changes.
- name: {{ .volume | default "destinations" }}
  mountPath: /etc/egress-router
  readOnly: true
{{- if include "egress-router.hasPolicy" . }}
- name: policy
  mountPath: /etc/egress-router-policy
  readOnly: true
{{- end }}
{{- end -}}

{{- define "egress-router.adminRulesMount" -}}
- name: admin-rules
  mountPath: /etc/egress-router-admin
  readOnly: true
{{- end -}}

{{- define "egress-router.proxyContainer" -}}
image: {{ include "egress-router.mainImage" . }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
terminationMessagePolicy: FallbackToLogsOnError
env:
  {{- include "egress-router.proxyEnv" . | nindent 2 }}
  {{- include "egress-router.chartValues" (include "egress-router.proxyEnv" .) | nindent 2 }}
  {{- with .Values.extraEnv }}{{ toYaml . | nindent 2 }}{{ end }}
{{ include "egress-router.longRunning" . }}
{{- end -}}

{{- define "egress-router.proxyEnv" -}}
{{- $http := eq .Values.mode "http-proxy" -}}
- name: {{ ternary "EGRESS_HTTP_PROXY" "EGRESS_DNS_PROXY" $http }}_DESTINATION_FILE
  value: /etc/egress-router/destinations
{{- if include "egress-router.hasPolicy" . }}
- name: EGRESS_POLICY_FILE
  value: /etc/egress-router-policy/policy
{{- end }}
- name: EGRESS_SOURCE
  value: {{ .Values.source | quote }}
- name: EGRESS_INTERFACE
  value: {{ .Values.interface.name | quote }}
- name: EGRESS_ADMIN_PORT
  value: {{ .Values.admin.port | int64 | quote }}
{{- if $http }}
- name: EGRESS_HTTP_PROXY_PORT
  value: {{ .Values.httpProxy.port | int64 | quote }}
- name: EGRESS_HTTP_PROXY_CONNECT_PORTS
  value: {{ .Values.httpProxy.connectPorts | quote }}
{{- with .Values.httpProxy.transparentPorts }}
- name: EGRESS_HTTP_PROXY_TRANSPARENT_PORTS
  value: {{ . | quote }}
{{- end }}
- name: EGRESS_HTTP_PROXY_SNI
  value: {{ .Values.httpProxy.sni | quote }}
{{- if .Values.httpProxy.reportOnly }}
- name: EGRESS_HTTP_PROXY_REPORT_ONLY
  value: "1"
{{- end }}
{{- else if .Values.dnsProxy.debug }}
- name: EGRESS_DNS_PROXY_DEBUG
  value: "1"
{{- end }}
{{ include "egress-router.longRunningEnv" (dict "root" . "env" .Values.env) }}
{{- end -}}

{{/* Which value of the chart each variable of an environment (YAML) comes from, so that errors can name it. */}}
{{- define "egress-router.chartValues" -}}
{{- $values := include "egress-router.valueNames" . | fromYaml -}}
{{- $pairs := list -}}
{{- range $variable := fromYamlArray . -}}
  {{- with get $values $variable.name }}{{ $pairs = append $pairs (printf "%s=%s" $variable.name .) }}{{ end -}}
{{- end -}}
- name: EGRESS_CHART_VALUES
  value: {{ join "," $pairs | quote }}
{{- end -}}
