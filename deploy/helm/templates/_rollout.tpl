{{/* The workers of each stage of a rollout. */}}

{{/* A release without workers (replicas 0) is for scans only and needs no brokers. */}}
{{- define "unlensed.hasWorkers" -}}
{{- if or .Values.keda.enabled (gt (int .Values.replicas) 0) }}true{{ end -}}
{{- end }}

{{/* Workers without the candidate: `replicas`, or with KEDA its minimum. */}}
{{- define "unlensed.baseReplicas" -}}
{{ ternary .Values.keda.minReplicas .Values.replicas .Values.keda.enabled }}
{{- end }}

{{/* Workers of a canary: the requested share, at least one. */}}
{{- define "unlensed.canaryReplicas" -}}
{{- if eq .Values.rollout.stage "canary" -}}
{{- $share := .Values.rollout.canaryShare -}}
{{- divf (mulf (include "unlensed.baseReplicas" . | float64) $share) (subf 100 $share) | ceil | int -}}
{{- else }}0{{ end -}}
{{- end }}

{{- define "unlensed.hasCandidate" -}}
{{- if and (include "unlensed.hasWorkers" .) (has .Values.rollout.stage (list "shadow" "canary")) }}true{{ end -}}
{{- end }}
