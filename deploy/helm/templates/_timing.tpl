{{/*
Deadlines in seconds, computed from the settings of the service. README.md, "Drain arithmetic", explains each part. The
fixed parts are constants of the service; a test compares them with its code.
*/}}

{{- define "unlensed.commitSeconds" -}}5{{- end }}
{{/* End of threads, producers, spans. */}}
{{- define "unlensed.endSeconds" -}}8{{- end }}
{{- define "unlensed.marginSeconds" -}}5{{- end }}

{{/* Leaving the group: wait for a rebalance and for late records, commit, write a note, leave twice. */}}
{{- define "unlensed.closeSeconds" -}}
{{- addf (mulf 4 .Values.settings.stream.revoke_s) (mulf 2 (include "unlensed.commitSeconds" . | float64)) -}}
{{- end }}

{{/* What follows the drain in each pod that scores: its end, the sidecar's end, a margin. */}}
{{- define "unlensed.endsSeconds" -}}
{{- $sidecar := ternary .Values.triton.exitSeconds 0 (eq .Values.triton.mode "sidecar") -}}
{{- addf (include "unlensed.endSeconds" . | float64) $sidecar (include "unlensed.marginSeconds" . | float64) -}}
{{- end }}

{{/* The minimum grace period of a worker: drain, commit, close, ends. */}}
{{- define "unlensed.leastGrace" -}}
{{- $ends := include "unlensed.endsSeconds" . | float64 -}}
{{- $commit := include "unlensed.commitSeconds" . | float64 -}}
{{- addf .Values.settings.stream.drain_s $commit (include "unlensed.closeSeconds" . | float64) $ends | ceil | int -}}
{{- end }}

{{- define "unlensed.grace" -}}
{{- $least := include "unlensed.leastGrace" . | int -}}
{{- $asked := int .Values.terminationGracePeriodSeconds -}}
{{- if and $asked (lt $asked $least) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but an orderly stop may take %d s (settings.stream.drain_s %v, commit, close, margin): raise it, lower drain_s, or set 0" $asked $least .Values.settings.stream.drain_s) -}}
{{- end -}}
{{- default $least $asked -}}
{{- end }}

{{/* The worst batch: fetch, find the faces of all its images, wait for the batch, compute. */}}
{{- define "unlensed.worstBatch" -}}
{{- $s := .Values.settings -}}
{{- $rounds := divf $s.stream.batch_images $s.stream.detector_processes | ceil -}}
{{- addf $s.payloads.timeout_s (mulf $rounds $s.stream.detector_timeout_s) $s.stream.batch_age_s $s.triton.timeout_s | ceil | int -}}
{{- end }}

{{/* The longest iteration of the poll loop: a rebalance with late records, and a timeout of each call to the broker. */}}
{{- define "unlensed.longestTurn" -}}
{{- addf .Values.settings.stream.revoke_s (mulf 4 (include "unlensed.commitSeconds" . | float64)) | ceil | int -}}
{{- end }}

{{- define "unlensed.checkTiming" -}}
{{- $s := .Values.settings -}}
{{- $batch := include "unlensed.worstBatch" . | int -}}
{{- if ge $batch (int $s.kafka.max_poll_interval_s) -}}
{{- fail (printf "settings.kafka.max_poll_interval_s is %v, but the worst batch may take %d s (batch_images / detector_processes x detector_timeout_s, payloads and triton timeout_s): raise it or make batches smaller" $s.kafka.max_poll_interval_s $batch) -}}
{{- end -}}
{{- $turn := include "unlensed.longestTurn" . | int -}}
{{- if ge $turn (int $s.health.max_poll_age_s) -}}
{{- fail (printf "settings.health.max_poll_age_s is %v, but an iteration of the poll loop may take %d s (revoke_s and four calls to the broker): the kubelet would kill a healthy worker; raise it" $s.health.max_poll_age_s $turn) -}}
{{- end -}}
{{- if ge (addf $s.health.canary_every_s $s.triton.timeout_s) (float64 $s.health.max_canary_age_s) -}}
{{- fail (printf "settings.health.max_canary_age_s is %v, but a canary may take canary_every_s + triton.timeout_s to succeed: raise it" $s.health.max_canary_age_s) -}}
{{- end -}}
{{- include "unlensed.grace" . -}}
{{- end }}
