{{/* A run's folder in the volume, one for each bundle: a run resumes with its own bundle only. */}}
{{- define "unlensed.run" -}}
{{ .scan.run }}-{{ .bundle.digest | trunc 8 }}
{{- end }}

{{/*
A scan's processes, one for each index: (dict "root" $ "scan" S "bundle" B "run" R "labels" L). Exit codes decide whether
a process is retried. Kueue itself suspends a Job that has a queue.
*/}}
{{- define "unlensed.scanJob" -}}
{{- $ := .root -}}
{{- $onGpu := and (gt (int $.Values.gpu.count) 0) (eq $.Values.triton.mode "none") -}}
completionMode: Indexed
completions: {{ .scan.completions }}
parallelism: {{ .scan.parallelism }}
backoffLimitPerIndex: {{ .scan.retries }}
podFailurePolicy:
  rules:
    # A disrupted node counts as no failure.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # Wrong usage, a bad bundle or archive, bad configuration: no other process would succeed.
    - action: FailJob
      onExitCodes:
        operator: In
        values: [2, 65, 78]
    # Too many images failed: a retry of this index would have the same result.
    - action: FailIndex
      onExitCodes:
        operator: In
        values: [3]
    # A defect, a lost GPU, an unavailable store or disk, or an interrupt: retried `retries` times.
    - action: Count
      onExitCodes:
        operator: In
        values: [70, 71, 75, 130]
template:
  metadata:
    labels:
      {{- include "unlensed.podLabels" .labels | nindent 6 }}
    annotations:
      checksum/settings: {{ include "unlensed.settings" $ | sha256sum }}
      {{- with $.Values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    {{- include "unlensed.podBasics" $ | nindent 4 }}
    {{- include "unlensed.placement" (dict "root" $ "onGpu" $onGpu) | nindent 4 }}
    restartPolicy: Never
    terminationGracePeriodSeconds: 60  # the process finishes its batch and exits with 75
    initContainers: {{- include "unlensed.verifyBundle" (dict "root" $ "bundle" .bundle) | nindent 6 }}
    containers:
      - name: scan
        image: {{ include "unlensed.image" (dict "root" $ "image" $.Values.image) }}
        imagePullPolicy: {{ $.Values.image.pullPolicy }}
        command: [unlensed, scan]
        args:
          {{- range .scan.sources }}
          - {{ . | quote }}
          {{- end }}
          - --out=/runs/{{ .run }}
          - --bundle=/bundle
          - --of={{ .scan.completions }}  # --index is JOB_COMPLETION_INDEX
          - --shard-images={{ .scan.shardImages }}
          - --max-failed={{ .scan.maxFailed }}
          {{- with .scan.uriColumn }}
          - --uri-column={{ . }}
          {{- end }}
          {{- with .scan.bytesColumn }}
          - --bytes-column={{ . }}
          {{- end }}
        envFrom:
          - configMapRef:
              name: {{ include "unlensed.name" $ }}-settings
          {{- range $.Values.envSecrets }}
          - secretRef:
              name: {{ . }}
          {{- end }}
        env:
          - name: UNLENSED_THREADS
            valueFrom:
              resourceFieldRef:
                resource: requests.cpu
                divisor: "1"
          {{- with $.Values.env }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        securityContext: {{- include "unlensed.containerSecurity" $ | nindent 10 }}
        resources: {{- include "unlensed.decoderResources" (dict "root" $ "resources" .scan.resources "least" (include "unlensed.scanMiB" $ | int) "gpus" (ternary $.Values.gpu.count 0 $onGpu) "where" "scan.resources") | nindent 10 }}
        volumeMounts:
          {{- include "unlensed.bundleMount" (dict "bundle" .bundle) | nindent 10 }}
          {{- include "unlensed.scratchMount" $ | nindent 10 }}
          {{- include "unlensed.runsMount" $ | nindent 10 }}
          {{- include "unlensed.extraMounts" $ | nindent 10 }}
    volumes:
      {{- include "unlensed.bundleVolumes" (dict "bundle" .bundle) | nindent 6 }}
      {{- include "unlensed.scratchVolume" $ | nindent 6 }}
      {{- include "unlensed.runsVolume" .scan | nindent 6 }}
      {{- include "unlensed.extraVolumes" $ | nindent 6 }}
{{- end }}

{{/*
The differences between two bundles, face by face: a page beside the runs, once both are complete:
(dict "root" $ "scan" S "before" RUN "after" RUN "labels" L).
*/}}
{{- define "unlensed.compareJob" -}}
{{- $ := .root -}}
backoffLimit: 3
activeDeadlineSeconds: {{ .scan.compareDeadlineSeconds }}  # a failed run never completes
template:
  metadata:
    labels: {{- include "unlensed.podLabels" .labels | nindent 6 }}
    {{- with $.Values.podAnnotations }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    {{- include "unlensed.podBasics" $ | nindent 4 }}
    {{- include "unlensed.placement" (dict "root" $ "onGpu" false) | nindent 4 }}
    restartPolicy: Never
    initContainers:
      - name: wait
        image: {{ include "unlensed.image" (dict "root" $ "image" $.Values.image) }}
        imagePullPolicy: {{ $.Values.image.pullPolicy }}
        command: [sh, -c, 'for run; do until [ -e "/runs/$run/_SUCCESS" ]; do sleep 10; done; done', wait]
        args: [{{ .before | quote }}, {{ .after | quote }}]
        securityContext: {{- include "unlensed.containerSecurity" $ | nindent 10 }}
        resources: {{- include "unlensed.smallResources" $ | nindent 10 }}
        volumeMounts:
          {{- include "unlensed.runsMount" $ | nindent 10 }}
    containers:
      - name: compare
        image: {{ include "unlensed.image" (dict "root" $ "image" $.Values.image) }}
        imagePullPolicy: {{ $.Values.image.pullPolicy }}
        command: [unlensed, compare]
        args:
          - /runs/{{ .before }}
          - /runs/{{ .after }}
          - --out=/runs/{{ .before }}-{{ .after }}.html
        {{- include "unlensed.environment" $ | nindent 8 }}
        securityContext: {{- include "unlensed.containerSecurity" $ | nindent 10 }}
        resources: {{- include "unlensed.decoderResources" (dict "root" $ "resources" .scan.resources "least" (include "unlensed.scanMiB" $ | int) "gpus" 0 "where" "scan.resources") | nindent 10 }}
        volumeMounts:
          {{- include "unlensed.scratchMount" $ | nindent 10 }}
          {{- include "unlensed.runsMount" $ | nindent 10 }}
          {{- include "unlensed.extraMounts" $ | nindent 10 }}
    volumes:
      {{- include "unlensed.scratchVolume" $ | nindent 6 }}
      {{- include "unlensed.runsVolume" .scan | nindent 6 }}
      {{- include "unlensed.extraVolumes" $ | nindent 6 }}
{{- end }}

{{- define "unlensed.runsVolume" -}}
- name: runs
  persistentVolumeClaim:
    claimName: {{ .claim }}
{{- end }}

{{- define "unlensed.runsMount" -}}
- name: runs
  mountPath: /runs
{{- end }}
