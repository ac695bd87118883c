{{/* What cannot work with two pods. */}}
{{- define "egress-router.validateStandby" -}}
{{- $standby := .Values.standby -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if not (include "egress-router.stays" .) -}}
  {{- include "egress-router.refuse" (list $ "standby: redirect.live is false, but somebody has to keep the fence; set redirect.live: true") -}}
{{- end -}}
{{- if and (include "egress-router.besideProxy" .) (not (semverCompare ">=1.29.0-0" $version)) -}}
  {{- include "egress-router.refuse" (list $ (printf "standby: setup stays beside the proxy as a restartable init container, which Kubernetes has from 1.29 on; this is %s" $version)) -}}
{{- end -}}
{{- if and (include "egress-router.usesCluster" .) (not .Values.serviceAccount.create) (has .Values.serviceAccount.name (list "" "default")) -}}
  {{- include "egress-router.refuse" (list $ "standby: the Lease and the EndpointSlice need a service account of the router's own, not default, which other pods have, too; set serviceAccount.create: true, or name one in serviceAccount.name") -}}
{{- end -}}
{{- if eq (int $standby.port) (int .Values.admin.port) -}}
  {{- include "egress-router.refuse" (list $ (printf "standby.port and admin.port are both %d; give one of them another port" (int $standby.port))) -}}
{{- end -}}
{{- range include "egress-router.open" . | fromYamlArray -}}
  {{- if not .fallback -}}
    {{- if and (eq .protocol "UDP") (le (int .first) (int $standby.port)) (ge (int .last) (int $standby.port)) -}}
      {{- include "egress-router.refuse" (list $ (printf "%s: local port %d is that on which the two pods hear each other; give standby.port another one" (.line | default "ports") (int $standby.port))) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $standby.admissionPolicy -}}
  {{- if not $standby.service -}}
    {{- include "egress-router.refuse" (list $ "standby.admissionPolicy is about the EndpointSlice, and standby.service is false; leave it out") -}}
  {{- end -}}
  {{- if not (semverCompare ">=1.30.0-0" $version) -}}
    {{- include "egress-router.refuse" (list $ (printf "standby.admissionPolicy: Kubernetes has ValidatingAdmissionPolicy from 1.30 on; this is %s" $version)) -}}
  {{- end -}}
{{- end -}}
{{- if $standby.service -}}
  {{- include "egress-router.validateSlice" . -}}
{{- end -}}
{{- end -}}

{{/* What cannot work with a Service whose EndpointSlice the pods write. */}}
{{- define "egress-router.validateSlice" -}}
{{- if and (eq .Values.mode "redirect") (contains ":" .Values.source) (contains "." .Values.source) -}}
  {{- include "egress-router.refuse" (list $ "standby.service: an EndpointSlice has addresses of one family, so the lines of the other one could not be reached; set standby.service: false for a dual-stack source in mode redirect") -}}
{{- end -}}
{{- range $field := list "internalTrafficPolicy" "externalTrafficPolicy" -}}
  {{- if eq (get $.Values.service $field) "Local" -}}
    {{- include "egress-router.refuse" (list $ (printf "service.%s is Local, but only one pod serves, on one node; leave it out with standby.service" $field)) -}}
  {{- end -}}
{{- end -}}
{{- if or (hasPrefix "RequireDualStack" .Values.service.ipFamilyPolicy) (gt (len .Values.service.ipFamilies) 1) -}}
  {{- include "egress-router.refuse" (list $ "service: an EndpointSlice has addresses of one family; leave ipFamilyPolicy and the second of ipFamilies out, or set standby.service: false") -}}
{{- end -}}
{{- /* Kubernetes keeps the slices of a selector that was removed: they would lead to the former pod for ever. */ -}}
{{- $name := include "egress-router.fullname" . -}}
{{- $live := lookup "v1" "Service" .Release.Namespace $name | default dict -}}
{{- if (get ($live.spec | default dict) "selector") -}}
  {{- include "egress-router.refuse" (list $ (printf "standby.service: the Service %s has a selector, and what it made would stay; delete it first (kubectl -n %s delete service %s), or set standby.service: false" $name .Release.Namespace $name)) -}}
{{- end -}}
{{- end -}}
