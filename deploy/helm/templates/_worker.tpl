{{/*
The workers of one bundle: (dict "root" $ "name" N "component" C "mode" live|shadow "stage" S "bundle" B "replicas" N or
nothing where KEDA decides).

A StatefulSet, because a worker's name is its static membership of the consumer group: the name survives a restart, and
Kubernetes never runs two pods with one name, which would remove each other from the group.
*/}}
{{- define "unlensed.workers" -}}
{{- $ := .root -}}
{{- $pod := dict "role" "worker" "command" "serve" "port" "health" "portNumber" 8080 "scheme" "HTTP" -}}
{{- /* The port opens once the bundle is read; after that max_poll_age_s and max_canary_age_s apply. */}}
{{- $_ := set $pod "starts" 90 -}}
{{- $_ := set $pod "grace" (include "unlensed.grace" $) -}}
{{- $_ := set $pod "least" (include "unlensed.workerMiB" $ | int) -}}
{{- $_ := set $pod "resources" $.Values.resources -}}
{{- $_ := set $pod "where" "resources" -}}
{{- $_ := set $pod "variables" (include "unlensed.workerVariables" .) -}}
{{- $_ := set $pod "volumes" (include "unlensed.kafkaVolumes" $) -}}
{{- $_ := set $pod "mounts" (include "unlensed.kafkaMounts" $) -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .name }}
  labels: {{- include "unlensed.labels" . | nindent 4 }}
spec:
  {{- if hasKey . "replicas" }}
  replicas: {{ .replicas }}
  {{- end }}
  serviceName: {{ include "unlensed.name" $ }}
  podManagementPolicy: Parallel
  selector:
    matchLabels: {{- include "unlensed.selector" . | nindent 6 }}
  template: {{- include "unlensed.scorerPod" (merge $pod .) | nindent 4 }}
{{- end }}
