{{/* Names, labels and images. */}}

{{/* The name always contains `unlensed`: alerts and dashboards select by it. */}}
{{- define "unlensed.name" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $short := $release | trunc 40 | trimSuffix "-" -}}
{{- if contains "unlensed" $short }}{{ $short }}
{{- else }}{{ printf "%s-unlensed" ($release | trunc 31 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- define "unlensed.selector" -}}
app.kubernetes.io/name: unlensed
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "unlensed.labels" -}}
{{ include "unlensed.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Labels of a pod: no version of the chart among them, so that a new chart alone restarts nothing. */}}
{{- define "unlensed.podLabels" -}}
{{ include "unlensed.selector" . }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image's reference: (dict "root" $ "image" .Values.image). */}}
{{- define "unlensed.image" -}}
{{- $tag := default .root.Chart.AppVersion .image.tag -}}
{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end }}
