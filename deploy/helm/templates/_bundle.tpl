{{/* A bundle as a volume, and the init containers that fetch and verify it before any other container of a pod starts. */}}

{{/* The bundle that serves most requests. */}}
{{- define "unlensed.servingBundle" -}}
{{- ternary .Values.rollout.candidate .Values.bundle (eq .Values.rollout.stage "promoted") | toJson -}}
{{- end }}

{{/* Volumes: (dict "root" $ "bundle" B "writable" bool). */}}
{{- define "unlensed.bundleVolumes" -}}
- name: bundle
  {{- if eq .bundle.source "image" }}
  image:
    reference: {{ .bundle.image }}
    pullPolicy: IfNotPresent
  {{- else if eq .bundle.source "claim" }}
  persistentVolumeClaim:
    claimName: {{ .bundle.claim }}
    {{- if not .writable }}
    readOnly: true
    {{- end }}
  {{- else }}
  emptyDir:
    sizeLimit: 4Gi
  {{- end }}
{{- with .bundle.keyConfigMap }}
- name: bundle-key
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}

{{- define "unlensed.bundleMount" -}}
- name: bundle
  mountPath: /bundle
  {{- if not .writable }}
  readOnly: true
  {{- end }}
  {{- with .bundle.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}

{{/*
Init containers: (dict "root" $ "bundle" B "fills" bool). They check the files; the engine is checked
before it serves. With `fills` an empty claim is first filled from the bundle's uri, before anything of the release runs.
*/}}
{{- define "unlensed.verifyBundle" -}}
{{- if and .fills (eq .bundle.source "claim") .bundle.uri }}
- name: fetch-bundle
  image: {{ include "unlensed.image" (dict "root" .root "image" .root.Values.image) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  # The manifest is copied last: a bundle with a manifest is complete, and the plan in it is kept.
  command: [sh, -c, 'test -e /bundle/bundle.json || exec unlensed bundle fetch "$0" /bundle', {{ .bundle.uri | quote }}]
  {{- with .root.Values.envSecrets }}
  envFrom:
    {{- range . }}
    - secretRef:
        name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .root.Values.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "unlensed.containerSecurity" .root | nindent 4 }}
  resources: {{- include "unlensed.smallResources" .root | nindent 4 }}
  volumeMounts:
    {{- include "unlensed.bundleMount" (dict "bundle" .bundle "writable" true) | nindent 4 }}
    {{- include "unlensed.scratchMount" .root | nindent 4 }}
    {{- include "unlensed.extraMounts" .root | nindent 4 }}
{{- end }}
{{- if eq .bundle.source "store" }}
- name: fetch-bundle
  image: {{ include "unlensed.image" (dict "root" .root "image" .root.Values.image) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  # Init containers run again after a failure or a restart of the node, and then find their old files.
  command: [sh, -c, 'find /bundle -mindepth 1 -delete && exec unlensed bundle fetch "$0" /bundle', {{ .bundle.uri | quote }}]
  {{- include "unlensed.environment" .root | nindent 2 }}
  securityContext: {{- include "unlensed.containerSecurity" .root | nindent 4 }}
  # The bundle is on the node's disk: a few 100 MB, at most the volume's limit.
  resources: {{- include "unlensed.smallResources" .root | replace "ephemeral-storage: 64Mi" "ephemeral-storage: 1Gi" | nindent 4 }}
  volumeMounts:
    {{- include "unlensed.bundleMount" (dict "bundle" .bundle "writable" true) | nindent 4 }}
    {{- include "unlensed.scratchMount" .root | nindent 4 }}
    {{- include "unlensed.extraMounts" .root | nindent 4 }}
{{- end }}
- name: verify-bundle
  image: {{ include "unlensed.image" (dict "root" .root "image" .root.Values.image) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [unlensed, bundle, verify, /bundle, --files-only, --digest, {{ .bundle.digest | quote }}
    {{- if .bundle.keyConfigMap }}, --key, /keys/bundle.pem{{ end }}]
  securityContext: {{- include "unlensed.containerSecurity" .root | nindent 4 }}
  resources: {{- include "unlensed.smallResources" .root | nindent 4 }}
  volumeMounts:
    {{- include "unlensed.bundleMount" (dict "bundle" .bundle) | nindent 4 }}
    {{- include "unlensed.scratchMount" .root | nindent 4 }}
    {{- if .bundle.keyConfigMap }}
    - name: bundle-key
      mountPath: /keys
      readOnly: true
    {{- end }}
{{- end }}
