{{/* The labels by which the control plane's pods are selected; they may never change. */}}
{{- define "outrider.selector" -}}
app.kubernetes.io/component: control-plane
app.kubernetes.io/name: outrider
{{- end }}

{{/* The labels of everything. */}}
{{- define "outrider.labels" -}}
{{ include "outrider.selector" . }}
app.kubernetes.io/part-of: outrider
{{- end }}

{{/* The full name of an image: list of the root and the name. */}}
{{- define "outrider.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{/* Sidecars, roles and the webhooks know the namespace. */}}
{{- define "outrider.checkNamespace" -}}
{{- if ne .Release.Namespace "outrider-system" -}}
{{- fail "expected --namespace outrider-system: sidecars know the control plane by it" -}}
{{- end -}}
{{- end }}
