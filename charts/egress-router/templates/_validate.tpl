{{/* What values.schema.json cannot check, or not with an error message that helps. */}}
{{- define "egress-router.validate" -}}
{{- include "egress-router.validateAddresses" . -}}
{{- include "egress-router.validateInterface" . -}}
{{- include "egress-router.validateRules" . -}}
{{- include "egress-router.validateEnv" . -}}
{{- include "egress-router.validateAlso" . -}}
{{- if .Values.standby.enabled -}}
  {{- include "egress-router.validateStandby" . -}}
{{- end -}}
{{- if and .Values.prometheusRule.enabled (not .Values.serviceMonitor.enabled) -}}
  {{- include "egress-router.refuse" (list $ "prometheusRule needs serviceMonitor: its alerts are about the metrics that the monitor has scraped") -}}
{{- end -}}
{{- end -}}

{{- define "egress-router.validateInterface" -}}
{{- $multus := .Values.interface.multus -}}
{{- if eq .Values.interface.provider "multus" -}}
  {{- if and (not $multus.create) (not $multus.network) -}}
    {{- include "egress-router.refuse" (list $ "interface.provider is multus: name the network in interface.multus.network, or set interface.multus.create") -}}
  {{- end -}}
  {{- if and $multus.create (contains "/" $multus.network) -}}
    {{- include "egress-router.refuse" (list $ (printf "interface.multus.network: '%s' names a namespace, but interface.multus.create makes the network in the release's own; leave the namespace out" $multus.network)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "egress-router.validateAddresses" -}}
{{- $octet := "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])" -}}
{{- $ipv4 := printf "%s(\\.%s){3}" $octet $octet -}}
{{- $ipv6 := "[0-9a-fA-F:]*:[0-9a-fA-F:.]*" -}}
{{- $source := printf "^(%s(/([1-9]|[12][0-9]|3[0-2]))?|%s(/([1-9][0-9]?|1[01][0-9]|12[0-8]))?)$" $ipv4 $ipv6 -}}
{{- range splitList "," .Values.source -}}
  {{- if not (regexMatch $source (trim .)) -}}
    {{- include "egress-router.refuse" (list $ (printf "source: '%s': expected the address that the router claims, such as 192.168.12.99/24 (a second one, IPv6, after a comma)" (trim .))) -}}
  {{- end -}}
{{- end -}}
{{- range splitList "," .Values.gateway -}}
  {{- if not (regexMatch (printf "^(%s|%s)$" $ipv4 $ipv6) (trim .)) -}}
    {{- include "egress-router.refuse" (list $ (printf "gateway: '%s': expected the next hop for everything outside the cluster, such as 192.168.12.1 (a second one, IPv6, after a comma)" (trim .))) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "egress-router.validateRules" -}}
{{- if and .Values.policy.inline .Values.policy.existingConfigMap.name -}}
  {{- include "egress-router.refuse" (list $ "policy: give either inline or existingConfigMap.name, not both") -}}
{{- end -}}
{{- if and .Values.adminRules.inline .Values.adminRules.existingConfigMap.name -}}
  {{- include "egress-router.refuse" (list $ "adminRules: give either inline or existingConfigMap.name, not both") -}}
{{- end -}}
{{- if and .Values.destinations .Values.existingConfigMap.name -}}
  {{- include "egress-router.refuse" (list $ "give either destinations or existingConfigMap.name, not both") -}}
{{- end -}}
{{- if not (or .Values.destinations .Values.existingConfigMap.name) -}}
  {{- include "egress-router.refuse" (list $ "no rules: give destinations, or existingConfigMap.name") -}}
{{- end -}}
{{- if eq .Values.mode "http-proxy" -}}
  {{- if .Values.ports -}}
    {{- include "egress-router.refuse" (list $ "ports: mode http-proxy has one port, which httpProxy.port names; leave ports empty") -}}
  {{- end -}}
  {{- if eq (int .Values.httpProxy.port) (int .Values.admin.port) -}}
    {{- include "egress-router.refuse" (list $ (printf "httpProxy.port and admin.port are both %d; give one of them another port" (int .Values.admin.port))) -}}
  {{- end -}}
{{- end -}}
{{- /* Read even if `ports` says what the Service offers, so that errors in them are found. */ -}}
{{- $_ := include "egress-router.open" . -}}
{{- if not (include "egress-router.ports" . | trim) -}}
  {{- include "egress-router.refuse" (list $ "the rules name no single local port for the Service (a fallback or an existing ConfigMap): list them in ports") -}}
{{- end -}}
{{- if and (eq .Values.mode "redirect") (not (include "egress-router.privileged" .)) -}}
  {{- range splitList "," .Values.source -}}
    {{- $name := ternary "net.ipv6.conf.all.forwarding" "net.ipv4.ip_forward" (contains ":" .) -}}
    {{- if not (has (dict "name" $name "value" "1") $.Values.sysctls) -}}
      {{- include "egress-router.refuse" (list $ (printf "redirect mode needs IP forwarding for source %s: give { name: %s, value: \"1\" } in sysctls, or set setup.privileged" (trim .) $name)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Which value of the chart sets which variable. */}}
{{- define "egress-router.valueNames" -}}
EGRESS_SOURCE: source
EGRESS_GATEWAY: gateway
EGRESS_ROUTER_MODE: mode
EGRESS_INTERFACE: interface.name
EGRESS_PARENT_INTERFACE: interface.parent
EGRESS_PARENT_NETNS: interface.provider
EGRESS_MACVLAN_MODE: interface.macvlanMode
EGRESS_CLAIM_TIMEOUT: setup.claimTimeoutSeconds
EGRESS_CLUSTER_CIDRS: clusterCidrs
EGRESS_ADMIN_PORT: admin.port
EGRESS_DRAIN_SECONDS: drainSeconds
EGRESS_DESTINATION: destinations
EGRESS_DESTINATION_FILE: destinations
EGRESS_HTTP_PROXY_DESTINATION: destinations
EGRESS_HTTP_PROXY_DESTINATION_FILE: destinations
EGRESS_HTTP_PROXY_PORT: httpProxy.port
EGRESS_HTTP_PROXY_CONNECT_PORTS: httpProxy.connectPorts
EGRESS_HTTP_PROXY_REPORT_ONLY: httpProxy.reportOnly
EGRESS_HTTP_PROXY_TRANSPARENT_PORTS: httpProxy.transparentPorts
EGRESS_HTTP_PROXY_SNI: httpProxy.sni
EGRESS_DNS_PROXY_DESTINATION: destinations
EGRESS_DNS_PROXY_DESTINATION_FILE: destinations
EGRESS_DNS_PROXY_DEBUG: dnsProxy.debug
EGRESS_STANDBY: standby.enabled
EGRESS_STANDBY_LEASE: standby.lease
EGRESS_STANDBY_SERVICE: standby.service
EGRESS_STANDBY_PORT: standby.port
EGRESS_POLICY: policy.inline
EGRESS_POLICY_FILE: policy.inline
EGRESS_ADMIN_RULES_FILE: adminRules.inline
{{- end -}}

{{/* A variable that a container has twice gets whichever value the API server keeps. */}}
{{- define "egress-router.validateEnv" -}}
{{- $own := include "egress-router.valueNames" . | fromYaml -}}
{{- $given := dict "env" .Values.env "setup.env" .Values.setup.env "extraEnv" dict "setup.extraEnv" dict -}}
{{- range .Values.extraEnv }}{{ $_ := set (get $given "extraEnv") .name "" }}{{ end -}}
{{- range .Values.setup.extraEnv }}{{ $_ := set (get $given "setup.extraEnv") .name "" }}{{ end -}}
{{- range $where, $env := $given -}}
  {{- if hasKey $env "EGRESS_CHART_VALUES" -}}
    {{- include "egress-router.refuse" (list $ (printf "%s: the chart sets EGRESS_CHART_VALUES itself; leave it out" $where)) -}}
  {{- end -}}
  {{- range $name, $_ := $env -}}
    {{- with get $own $name -}}
      {{- include "egress-router.refuse" (list $ (printf "%s: the chart sets %s itself; use the value %s" $where $name .)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "egress-router.validateAlso" -}}
{{- with .Values.also.mode -}}
  {{- if or (eq $.Values.mode "redirect") (eq . $.Values.mode) -}}
    {{- include "egress-router.refuse" (list $ (printf "also.mode: %s beside mode %s; the two proxies, http-proxy and dns-proxy, can share a pod, in either order" . $.Values.mode)) -}}
  {{- end -}}
  {{- if eq (int $.Values.also.adminPort) (int $.Values.admin.port) -}}
    {{- include "egress-router.refuse" (list $ (printf "also.adminPort and admin.port are both %d; give one of them another port" (int $.Values.admin.port))) -}}
  {{- end -}}
  {{- if and $.Values.also.destinations $.Values.also.existingConfigMap.name -}}
    {{- include "egress-router.refuse" (list $ "also: give either destinations or existingConfigMap.name, not both") -}}
  {{- end -}}
  {{- if not (or $.Values.also.destinations $.Values.also.existingConfigMap.name) -}}
    {{- include "egress-router.refuse" (list $ "also: no rules: give also.destinations, or also.existingConfigMap.name") -}}
  {{- end -}}
  {{- $taken := dict (toString (int $.Values.admin.port)) "the administration port" (toString (int $.Values.also.adminPort)) "the second administration port" -}}
  {{- range include "egress-router.ports" $ | fromYamlArray -}}
    {{- $port := toString (int .port) -}}
    {{- with get $taken $port -}}
      {{- include "egress-router.refuse" (list $ (printf "port %s is wanted twice in the pod: it is %s, too" $port .)) -}}
    {{- end -}}
    {{- $_ := set $taken $port (printf "port %s of the other proxy" .name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
