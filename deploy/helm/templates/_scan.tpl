{{/* A run's folder in the volume, one for each bundle: a run goes on with no other. */}}
{{- define "unlensed.run" -}}
{{ .scan.run }}-{{ .bundle.digest | trunc 8 }}
{{- end }}

{{/*
A scan's processes, one an index: (dict "root" $ "scan" S "bundle" B "run" R "labels" L). What ends them for good and what
does not is told by their exit codes. Kueue itself suspends a Job that has a queue.
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
    # A node that goes away is nobody's failure.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # Wrong usage, a bad bundle or archive, bad configuration: no process can do better.
    - action: FailJob
      onExitCodes:
        operator: In
        values: [2, 65, 78]
    # Too many images failed: this index is answered, and another try would say the same.
    - action: FailIndex
      onExitCodes:
        operator: In
        values: [3]
    # A defect, a lost GPU, a store or disk that is not there now, or an interrupt: again, `retries` times.
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
    terminationGracePeriodSeconds: 60  # it ends after the batch in hand, with exit code 75
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
What another bundle changes, face by face: a page beside the runs, once both are complete:
(dict "root" $ "scan" S "before" RUN "after" RUN "labels" L).
*/}}
{{- define "unlensed.compareJob" -}}
{{- $ := .root -}}
backoffLimit: 3
activeDeadlineSeconds: {{ .scan.compareDeadlineSeconds }}  # a run that failed is never complete
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
