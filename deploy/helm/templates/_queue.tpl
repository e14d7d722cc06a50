{{/*
A Deployment that KEDA scales by a queue in Prometheus: (dict "root" $ "name" N "labels" L "scaling" S "metricType" T
"threshold" N "query" Q). Value: the query is the queue of one pod. AverageValue: it is that of all pods.
*/}}
{{- define "unlensed.queueScaler" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ .name }}
  labels: {{- include "unlensed.labels" .labels | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ .name }}
  minReplicaCount: {{ .scaling.minReplicas }}
  maxReplicaCount: {{ .scaling.maxReplicas }}
  # While Prometheus does not answer, the number of replicas does not change.
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
          policies:
            - type: Percent
              value: 100
              periodSeconds: 120
        scaleDown:
          stabilizationWindowSeconds: 900
          policies:
            - type: Pods
              value: 1
              periodSeconds: 300
  triggers:
    - type: prometheus
      metricType: {{ .metricType }}
      metadata:
        serverAddress: {{ .scaling.prometheus | quote }}
        threshold: {{ .threshold | quote }}
        query: {{ .query | quote }}
{{- end }}
