{{/* Common to all pods: no token for Kubernetes, no privilege, one writable folder. */}}

{{/* An existing account, or the chart's own. */}}
{{- define "unlensed.serviceAccount" -}}
{{ default (include "unlensed.name" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "unlensed.podBasics" -}}
serviceAccountName: {{ include "unlensed.serviceAccount" . }}
{{- include "unlensed.podSecurity" . }}
{{- end }}

{{- define "unlensed.podSecurity" }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with .Values.runAsUser }}
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "unlensed.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where a pod may run: (dict "root" $ "onGpu" bool). */}}
{{- define "unlensed.placement" -}}
{{- $from := ternary .root.Values.gpu .root.Values .onGpu -}}
{{- if and .onGpu .root.Values.gpu.runtimeClassName }}
runtimeClassName: {{ .root.Values.gpu.runtimeClassName }}
{{- end }}
{{- with $from.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $from.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $from.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Spread over zones and nodes: (dict "root" $ "component" C). */}}
{{- define "unlensed.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "unlensed.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{/* Resources with GPUs: (dict "root" $ "resources" R "gpus" N). */}}
{{- define "unlensed.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpus -}}
{{- $_ := set $resources "limits" (set (default dict $resources.limits) .root.Values.gpu.resource .gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* Resources of containers that read, copy and hash files. */}}
{{- define "unlensed.smallResources" -}}
requests:
  cpu: 500m
  memory: 512Mi
  ephemeral-storage: 64Mi
limits:
  memory: 512Mi
{{- end }}

{{- define "unlensed.scratchVolume" -}}
- name: scratch
  emptyDir:
    sizeLimit: 1Gi
{{- end }}

{{- define "unlensed.scratchMount" -}}
- name: scratch
  mountPath: /tmp
{{- end }}

{{/* The user's volumes, for every pod with a container that has `env`. */}}
{{- define "unlensed.extraVolumes" -}}
{{- with .Values.extraVolumes }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "unlensed.extraMounts" -}}
{{- with .Values.extraVolumeMounts }}{{ toYaml . }}{{ end }}
{{- end }}
