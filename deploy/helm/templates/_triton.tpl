{{/* Triton's container, as a sidecar or in its own pod: (dict "root" $ "bundle" B "remote" bool). */}}
{{- define "unlensed.tritonContainer" -}}
{{- $triton := .root.Values.triton -}}
- name: triton
  image: {{ include "unlensed.image" (dict "root" .root "image" $triton.image) }}
  imagePullPolicy: {{ $triton.image.pullPolicy }}
  {{- if not .remote }}
  restartPolicy: Always  # a native sidecar: it starts before the worker and stops after it
  {{- end }}
  command: [tritonserver]
  args:
    - --model-repository=/bundle
    # A bundle contains more than Triton serves, so the models are named, and clients cannot load others.
    - --model-control-mode=explicit
    - --load-model=face_features
    - --grpc-restricted-protocol=model-repository:none=none
    - --grpc-address={{ ternary "0.0.0.0" "127.0.0.1" .remote }}
    - --grpc-port=8001
    {{- if .remote }}
    - --grpc-use-ssl=true
    - --grpc-use-ssl-mutual=true
    - --grpc-server-cert=/etc/unlensed/triton/tls.crt
    - --grpc-server-key=/etc/unlensed/triton/tls.key
    - --grpc-root-cert=/etc/unlensed/triton/ca.crt
    # Clients that must reconnect find added servers; requests in flight are finished first.
    - --grpc-max-connection-age=300000
    - --grpc-max-connection-age-grace={{ mulf 1000 .root.Values.settings.triton.timeout_s | ceil | int }}
    {{- end }}
    - --allow-http=false
    - --metrics-address=0.0.0.0
    - --metrics-port=8002
    - --exit-timeout-secs={{ $triton.exitSeconds }}
  {{- if .remote }}
  env:  # of the probes, which connect as a client
    {{- include "unlensed.tritonClientVariables" .root | nindent 4 }}
  {{- end }}
  ports:
    - name: triton
      containerPort: 8002
    {{- if .remote }}
    - name: grpc
      containerPort: 8001
    {{- end }}
  # Triton reports that it is ready even after its engine failed, so the probes send the golden faces.
  startupProbe: {{- include "unlensed.tritonProbe" (dict "period" 10 "failures" 60) | nindent 4 }}
  livenessProbe: {{- include "unlensed.tritonProbe" (dict "period" 60 "failures" 3) | nindent 4 }}
  {{- if .remote }}
  readinessProbe:
    tcpSocket:
      port: grpc
    periodSeconds: 10
  {{- end }}
  securityContext: {{- include "unlensed.containerSecurity" .root | nindent 4 }}
  resources: {{- include "unlensed.resources" (dict "root" .root "resources" $triton.resources "gpus" .root.Values.gpu.count) | nindent 4 }}
  volumeMounts:
    {{- include "unlensed.bundleMount" (dict "bundle" .bundle) | nindent 4 }}
    {{- include "unlensed.scratchMount" .root | nindent 4 }}
    - name: shm
      mountPath: /dev/shm
    {{- if .remote }}
    - name: triton-server
      mountPath: /etc/unlensed/triton
      readOnly: true
    {{- end }}
{{- end }}

{{- define "unlensed.tritonProbe" -}}
exec:
  command: [unlensed, bundle, verify, /bundle, --triton, "localhost:8001"]
periodSeconds: {{ .period }}
timeoutSeconds: 30
failureThreshold: {{ .failures }}
{{- end }}

{{- define "unlensed.shmVolume" -}}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.triton.shmSize }}
{{- end }}

{{/* A remote Triton's name contains its bundle's digest, so a rollout never changes the bundle of a server. */}}
{{- define "unlensed.tritonName" -}}
{{ include "unlensed.name" .root }}-triton-{{ .bundle.digest | trunc 8 }}
{{- end }}

{{/* host:port of a bundle's Triton, empty when there is none. */}}
{{- define "unlensed.tritonUrl" -}}
{{- $mode := .root.Values.triton.mode -}}
{{- if eq $mode "sidecar" }}localhost:8001
{{- else if eq $mode "remote" }}{{ include "unlensed.tritonName" . }}.{{ .root.Release.Namespace }}.svc:8001
{{- end -}}
{{- end }}

{{/* How long a request waits for the slowest of a Triton's models, in milliseconds; 0 where there are no requests. */}}
{{- define "unlensed.tritonQueue" -}}
{{- $of := printf `{namespace="%s",pod=~"%s-.+",model=~"face_.*"}[2m]` .namespace .name -}}
{{- $waited := printf "sum by (model) (rate(nv_inference_queue_duration_us%s))" $of -}}
{{- $answered := printf "sum by (model) (rate(nv_inference_request_success%s))" $of -}}
{{- printf "max(%s / (%s > 0)) / 1000 or vector(0)" $waited $answered -}}
{{- end }}
