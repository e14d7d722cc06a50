{{/* Who serves what in which stage of a rollout. */}}

{{/* Without workers, replicas 0, a release is for scans alone and needs no brokers. */}}
{{- define "unlensed.hasWorkers" -}}
{{- if or .Values.keda.enabled (gt (int .Values.replicas) 0) }}true{{ end -}}
{{- end }}

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
{{- if and (include "unlensed.hasWorkers" .) (has .Values.rollout.stage (list "shadow" "canary")) }}true{{ end -}}
{{- end }}
