{{/* An image's reference: by its digest, if that is given. */}}
{{- define "placet.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "placet.labels" -}}
app.kubernetes.io/name: placet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The namespaces whose pods are nobody's to inject. */}}
{{- define "placet.excludedNamespaces" -}}
{{- prepend .Values.webhook.excludedNamespaces .Release.Namespace | uniq | toJson -}}
{{- end }}

{{/* Which pods are asked about: those of labelled namespaces … */}}
{{- define "placet.selectNamespaces" -}}
namespaceSelector:
  matchExpressions:
    - {key: placet.dev/inject, operator: In, values: ["true"]}
    - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ include "placet.excludedNamespaces" . }}}
objectSelector:
  matchExpressions: [{key: placet.dev/inject, operator: NotIn, values: ["false"]}]
{{- end }}

{{/* … and labelled pods of others. */}}
{{- define "placet.selectPods" -}}
namespaceSelector:
  matchExpressions:
    - {key: placet.dev/inject, operator: NotIn, values: ["true"]}
    - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ include "placet.excludedNamespaces" . }}}
objectSelector:
  matchExpressions: [{key: placet.dev/inject, operator: Exists}]
{{- end }}

{{/* The settings of the webhook. */}}
{{- define "placet.control" -}}
{{- $webhook := dict "address" "0.0.0.0:9443" -}}
{{- if ne .Values.webhook.certificates "self" -}}
{{- $webhook = merge $webhook (dict "certificateFile" "/var/run/secrets/tls/tls.crt" "keyFile" "/var/run/secrets/tls/tls.key") -}}
{{- end -}}
{{- $image := include "placet.image" (dict "image" .Values.images.placet "root" .) -}}
{{- dict "version" 1 "webhook" $webhook "injection" (merge (dict "image" $image) .Values.injection) | toYaml -}}
{{- end }}

{{/* The settings of the controller; pods start with listeners as `injection` has them. */}}
{{- define "placet.controllerSettings" -}}
{{- $snapshots := dict "address" "0.0.0.0:9444" "jwks" (dict "address" "0.0.0.0:9445") -}}
{{- with .Values.controller.sidecar }}{{ $_ := set $snapshots "sidecar" . }}{{ end -}}
{{- $settings := dict "version" 1 "controller" (dict "probes" "0.0.0.0:9446") "snapshots" $snapshots -}}
{{- with .Values.injection }}{{ $_ := set $settings "injection" . }}{{ end -}}
{{- toYaml $settings -}}
{{- end }}

{{/* Where pods run, and as whom. */}}
{{- define "placet.pod" -}}
securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
