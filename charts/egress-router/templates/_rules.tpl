{{/*
The ports that the lines of `destinations` open, as YAML: a list of { protocol, first, last, line }, and
{ fallback: true } at the end if a line without a port takes every other one. The program reads the same grammar; what
has nothing to do with local ports is left to it (`egress-router check`).
*/}}
{{- define "egress-router.rules" -}}
{{- $redirect := eq .Values.mode "redirect" -}}
{{- $seen := dict -}}
{{- $fallback := false -}}
{{- range $index, $raw := splitList "\n" .Values.destinations -}}
  {{- $blanks := regexReplaceAll "[\\s\\v\\pZ]+" $raw " " -}}
  {{- $text := regexReplaceAll "(^| )#.*" $blanks "" | trim -}}
  {{- /* The address that a line leaves with has nothing to do with its local ports. */ -}}
  {{- $text = regexReplaceAll " from [^ ]+$" $text "" -}}
  {{- $words := splitList " " $text -}}
  {{- if and $redirect $text (eq (len $words) 1) -}}
    {{- $fallback = true -}}
  {{- else if $text -}}
    {{- $line := printf "destinations line %d: '%s'" (add $index 1) $text -}}
    {{- $rule := include "egress-router.rule" (dict "line" $line "words" $words "redirect" $redirect "admin" (int $.Values.admin.port) "live" $.Values.redirect.live "router" $.router) -}}
    {{- /* An IPv4 and an IPv6 line may share their ports. */ -}}
    {{- if not (hasKey $seen $rule) }}
- { {{ $rule }}, line: {{ $line | quote }} }
      {{- $_ := set $seen $rule true -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $fallback }}
- { fallback: true }
{{- end -}}
{{- end -}}

{{/* Protocol and local ports of one line, given as .words; .line says in errors which one it is. */}}
{{- define "egress-router.rule" -}}
{{- if lt (len .words) (ternary 3 2 .redirect) -}}
  {{- include "egress-router.refuse" (list $ (printf "%s: expected %s" .line (ternary "PORT PROTOCOL DESTINATION [REMOTE_PORT]" "PORT HOST [REMOTE_PORT]" .redirect))) -}}
{{- end -}}
{{- $protocol := ternary (index .words 1) "tcp" .redirect -}}
{{- if not (has (lower $protocol) (list "tcp" "udp" "sctp")) -}}
  {{- include "egress-router.refuse" (list $ (printf "%s: unknown protocol '%s' (tcp, udp or sctp)" .line $protocol)) -}}
{{- end -}}
{{- $ends := splitn "-" (ternary 2 1 .redirect) (first .words) -}}
{{- range $ends -}}
  {{- if not (and (regexMatch "^[0-9]{1,5}$" .) (ge (atoi .) 1) (le (atoi .) 65535)) -}}
    {{- include "egress-router.refuse" (list $ (printf "%s: invalid port '%s' (a number from 1 to 65535)" $.line .)) -}}
  {{- end -}}
{{- end -}}
{{- /* atoi reads decimal numbers, with leading zeros or without; int would read leading zeros as octal. */ -}}
{{- $first := atoi $ends._0 -}}
{{- $last := atoi ($ends._1 | default $ends._0) -}}
{{- if lt $last $first -}}
  {{- include "egress-router.refuse" (list $ (printf "%s: the range ends before it begins" .line)) -}}
{{- end -}}
{{- if and (eq (lower $protocol) "tcp") (le $first .admin) (ge $last .admin) -}}
  {{- include "egress-router.refuse" (list $ (printf "%s: local port %d is that of the administration endpoint; give admin.port another one" .line .admin)) -}}
{{- end -}}
{{- if and .redirect (not .live) (regexMatch "[a-zA-Z]" (index .words 2)) (not (contains ":" (index .words 2))) -}}
  {{- include "egress-router.refuse" (list $ (printf "%s: a name needs redirect.live: true, because somebody has to follow it" .line)) -}}
{{- end -}}
protocol: {{ upper $protocol }}, first: {{ $first }}, last: {{ $last }}
{{- end -}}

{{/* The same for every mode: the proxy's port, what the rules open, or `ports` if the rules are not known here. */}}
{{- define "egress-router.open" -}}
{{- if eq .Values.mode "http-proxy" -}}
{{- $port := .Values.httpProxy.port | int64 -}}
- { protocol: TCP, first: {{ $port }}, last: {{ $port }}, name: http-proxy }
{{- range splitList "," .Values.httpProxy.transparentPorts }}
{{- with trim . }}
{{- $here := regexReplaceAll ":.*" . "" | atoi }}
- { protocol: TCP, first: {{ $here }}, last: {{ $here }} }
{{- end }}
{{- end }}
{{- else if .Values.destinations -}}
{{- include "egress-router.rules" . -}}
{{- else -}}
{{- range .Values.ports }}
- { protocol: {{ .protocol | default "TCP" }}, first: {{ .port | int64 }}, last: {{ .port | int64 }} }
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What both proxies of a pod open. */}}
{{- define "egress-router.allOpen" -}}
{{- include "egress-router.open" . -}}
{{- $also := dict -}}
{{- include "egress-router.also" (dict "router" . "out" $also) -}}
{{- with $also.router }}
{{ include "egress-router.open" . | trim }}
{{- end -}}
{{- end -}}

{{/* The ports of the Service as YAML, those of both proxies of a pod. */}}
{{- define "egress-router.ports" -}}
{{- include "egress-router.ownPorts" . -}}
{{- $also := dict -}}
{{- include "egress-router.also" (dict "router" . "out" $also) -}}
{{- with $also.router }}
{{ include "egress-router.ownPorts" . | trim }}
{{- end -}}
{{- end -}}

{{/* The ports of one mode: `ports`, or each port that is open, once. */}}
{{- define "egress-router.ownPorts" -}}
{{- range .Values.ports }}
- name: {{ .name | quote }}
  port: {{ .port | int64 }}
  protocol: {{ .protocol | default "TCP" }}
{{- else -}}
  {{- $seen := dict -}}
  {{- range $open := include "egress-router.open" . | fromYamlArray -}}
    {{- if not .fallback -}}
      {{- if gt (sub .last .first) 99 -}}
        {{- include "egress-router.refuse" (list $ (printf "%s: a range of over 100 ports is too wide for a Service; list the ports that it shall offer in ports" .line)) -}}
      {{- end -}}
      {{- range untilStep (int .first) (add .last 1 | int) 1 -}}
        {{- $name := printf "%s-%d" (lower $open.protocol) . -}}
        {{- if not (hasKey $seen $name) }}
- name: {{ $open.name | default $name }}
  port: {{ . }}
  protocol: {{ $open.protocol }}
          {{- $_ := set $seen $name true -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
