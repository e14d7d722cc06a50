{{/*
The workers of one bundle: (dict "root" $ "name" N "component" C "mode" live|shadow "stage" S "bundle" B "replicas" N or
nothing where KEDA decides).

A StatefulSet, because a worker's name is its static membership of the consumer group: the name survives a restart, and
Kubernetes never runs two pods with one name, which would remove each other from the group.
*/}}
{{- define "unlensed.workers" -}}
{{- $ := .root -}}
{{- $sidecar := eq $.Values.triton.mode "sidecar" -}}
{{- $inProcess := eq $.Values.triton.mode "none" -}}
{{- $gpus := int $.Values.gpu.count -}}
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
  template:
    metadata:
      labels:
        {{- include "unlensed.podLabels" . | nindent 8 }}
        unlensed/role: worker
        unlensed/stage: {{ .stage }}
      annotations:
        # None for policies: running workers load a changed file.
        checksum/settings: {{ include "unlensed.settings" $ | sha256sum }}
        {{- with $.Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "unlensed.podBasics" $ | nindent 6 }}
      {{- include "unlensed.placement" (dict "root" $ "onGpu" (and (gt $gpus 0) (or $sidecar $inProcess))) | nindent 6 }}
      {{- include "unlensed.spread" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "unlensed.grace" $ }}
      initContainers:
        {{- include "unlensed.verifyBundle" (dict "root" $ "bundle" .bundle) | nindent 8 }}
        {{- if $sidecar }}
        {{- include "unlensed.tritonContainer" (dict "root" $ "bundle" .bundle "remote" false) | nindent 8 }}
        {{- end }}
      containers:
        - name: scorer
          image: {{ include "unlensed.image" (dict "root" $ "image" $.Values.image) }}
          imagePullPolicy: {{ $.Values.image.pullPolicy }}
          command: [unlensed, serve]
          envFrom:
            - configMapRef:
                name: {{ include "unlensed.name" $ }}-settings
            {{- range $.Values.envSecrets }}
            - secretRef:
                name: {{ . }}
            {{- end }}
          env:
            {{- include "unlensed.workerVariables" (dict "root" $ "mode" .mode "triton" (include "unlensed.tritonUrl" .)) | nindent 12 }}
            {{- with $.Values.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - name: health
              containerPort: 8080
          # The port opens once the bundle is read; after that max_poll_age_s and max_canary_age_s apply.
          startupProbe:
            httpGet:
              path: /health/live
              port: health
            periodSeconds: 2
            failureThreshold: 90
            timeoutSeconds: 5
          livenessProbe:
            httpGet:
              path: /health/live
              port: health
            periodSeconds: 10
            failureThreshold: 3
            timeoutSeconds: 5
          readinessProbe:
            httpGet:
              path: /health/ready
              port: health
            periodSeconds: 5
            failureThreshold: 2
            timeoutSeconds: 5
          securityContext: {{- include "unlensed.containerSecurity" $ | nindent 12 }}
          resources: {{- include "unlensed.decoderResources" (dict "root" $ "resources" $.Values.resources "least" (include "unlensed.workerMiB" $ | int) "gpus" (ternary $gpus 0 $inProcess) "where" "resources") | nindent 12 }}
          volumeMounts:
            {{- include "unlensed.bundleMount" (dict "bundle" .bundle) | nindent 12 }}
            {{- include "unlensed.scratchMount" $ | nindent 12 }}
            {{- include "unlensed.workerMounts" $ | nindent 12 }}
            {{- include "unlensed.extraMounts" $ | nindent 12 }}
      volumes:
        {{- include "unlensed.bundleVolumes" (dict "bundle" .bundle) | nindent 8 }}
        {{- include "unlensed.scratchVolume" $ | nindent 8 }}
        {{- if $sidecar }}
        {{- include "unlensed.shmVolume" $ | nindent 8 }}
        {{- end }}
        {{- include "unlensed.workerVolumes" $ | nindent 8 }}
        {{- include "unlensed.extraVolumes" $ | nindent 8 }}
{{- end }}
