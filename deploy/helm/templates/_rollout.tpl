{{/* Who serves what in which stage of a rollout. */}}

{{/* Workers without a candidate: what is stated, or, with KEDA, its minimum. */}}
{{- define "unlensed.baseReplicas" -}}
{{ ternary .Values.keda.minReplicas .Values.replicas .Values.keda.enabled }}
{{- end }}

{{/* Workers of a canary: the share asked for, at least one. */}}
{{- define "unlensed.canaryReplicas" -}}
{{- if eq .Values.rollout.stage "canary" -}}
{{- $share := .Values.rollout.canaryShare -}}
{{- divf (mulf (include "unlensed.baseReplicas" . | float64) $share) (subf 100 $share) | ceil | int -}}
{{- else }}0{{ end -}}
{{- end }}

{{- define "unlensed.hasCandidate" -}}
{{- if has .Values.rollout.stage (list "shadow" "canary") }}true{{ end -}}
{{- end }}
