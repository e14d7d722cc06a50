{{/* What a worker and a pod of the HTTP service have in common: both run `unlensed` with one bundle. */}}

{{/*
The template of a pod: (dict "root" $ "component" C "role" R "stage" S "bundle" B "command" N "grace" seconds "port" name
"portNumber" N "scheme" HTTP|HTTPS "starts" probes until it must be alive "least" MiB "resources" R "where" the value's name),
and as YAML its own "variables", "volumes" and "mounts", and optionally "lifecycle".
*/}}
{{- define "unlensed.scorerPod" -}}
{{- $ := .root -}}
{{- $sidecar := eq $.Values.triton.mode "sidecar" -}}
{{- $inProcess := eq $.Values.triton.mode "none" -}}
{{- $gpus := int $.Values.gpu.count -}}
metadata:
  labels:
    {{- include "unlensed.podLabels" . | nindent 4 }}
    unlensed/role: {{ .role }}
    unlensed/stage: {{ .stage }}
  annotations:
    # None for policies: running processes load a changed file.
    checksum/settings: {{ include "unlensed.settings" $ | sha256sum }}
    {{- with $.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "unlensed.podBasics" $ | nindent 2 }}
  {{- include "unlensed.placement" (dict "root" $ "onGpu" (and (gt $gpus 0) (or $sidecar $inProcess))) | nindent 2 }}
  {{- include "unlensed.spread" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ .grace }}
  initContainers:
    {{- include "unlensed.verifyBundle" (dict "root" $ "bundle" .bundle) | nindent 4 }}
    {{- if $sidecar }}
    {{- include "unlensed.tritonContainer" (dict "root" $ "bundle" .bundle "remote" false) | nindent 4 }}
    {{- end }}
  containers:
    - name: scorer
      image: {{ include "unlensed.image" (dict "root" $ "image" $.Values.image) }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [unlensed, {{ .command }}]
      envFrom:
        - configMapRef:
            name: {{ include "unlensed.name" $ }}-settings
        {{- range $.Values.envSecrets }}
        - secretRef:
            name: {{ . }}
        {{- end }}
      env:
        {{- include "unlensed.scorerVariables" . | nindent 8 }}
        {{- .variables | nindent 8 }}
        {{- with $.Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: {{ .port }}
          containerPort: {{ .portNumber }}
      startupProbe: {{- include "unlensed.probe" (merge (dict "path" "live" "period" 2 "failures" .starts) .) | nindent 8 }}
      livenessProbe: {{- include "unlensed.probe" (merge (dict "path" "live" "period" 10 "failures" 3) .) | nindent 8 }}
      readinessProbe: {{- include "unlensed.probe" (merge (dict "path" "ready" "period" 5 "failures" 2) .) | nindent 8 }}
      {{- with .lifecycle }}
      lifecycle: {{- . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "unlensed.containerSecurity" $ | nindent 8 }}
      resources: {{- include "unlensed.decoderResources" (dict "root" $ "resources" .resources "least" .least "gpus" (ternary $gpus 0 $inProcess) "where" .where) | nindent 8 }}
      volumeMounts:
        {{- include "unlensed.bundleMount" (dict "bundle" .bundle) | nindent 8 }}
        {{- include "unlensed.scratchMount" $ | nindent 8 }}
        {{- .mounts | nindent 8 }}
        {{- include "unlensed.scorerMounts" $ | nindent 8 }}
        {{- include "unlensed.extraMounts" $ | nindent 8 }}
  volumes:
    {{- include "unlensed.bundleVolumes" (dict "bundle" .bundle) | nindent 4 }}
    {{- include "unlensed.scratchVolume" $ | nindent 4 }}
    {{- if $sidecar }}
    {{- include "unlensed.shmVolume" $ | nindent 4 }}
    {{- end }}
    {{- .volumes | nindent 4 }}
    {{- include "unlensed.scorerVolumes" $ | nindent 4 }}
    {{- include "unlensed.extraVolumes" $ | nindent 4 }}
{{- end }}

{{- define "unlensed.probe" -}}
httpGet:
  path: /health/{{ .path }}
  port: {{ .port }}
  scheme: {{ .scheme }}
periodSeconds: {{ .period }}
failureThreshold: {{ .failures }}
timeoutSeconds: 5
{{- end }}

{{- define "unlensed.scorerVariables" -}}
- name: UNLENSED_BUNDLE
  value: /bundle
- name: UNLENSED_THREADS
  valueFrom:
    resourceFieldRef:
      containerName: scorer
      resource: requests.cpu
      divisor: "1"
{{- with include "unlensed.tritonUrl" . }}
- name: UNLENSED_TRITON__URL
  value: {{ . | quote }}
{{- end }}
{{- if eq .root.Values.triton.mode "remote" }}
{{- include "unlensed.tritonClientVariables" .root | nindent 0 }}
{{- end }}
{{- end }}

{{/* Policies, and the certificate for remote Tritons. */}}
{{- define "unlensed.scorerVolumes" -}}
{{- if .Values.policies }}
- name: policies
  configMap:
    name: {{ include "unlensed.name" . }}-policies
{{- end }}
{{- if eq .Values.triton.mode "remote" }}
- name: triton-client
  secret:
    secretName: {{ .Values.triton.clientSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- define "unlensed.scorerMounts" -}}
{{- if .Values.policies }}
- name: policies
  mountPath: /etc/unlensed/policies
  readOnly: true
{{- end }}
{{- if eq .Values.triton.mode "remote" }}
- name: triton-client
  mountPath: /etc/unlensed/triton
  readOnly: true
{{- end }}
{{- end }}
