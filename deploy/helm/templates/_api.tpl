{{/* The HTTP service, `unlensed api`. */}}

{{- define "unlensed.hasApi" -}}
{{- if or .Values.api.scaling.enabled (gt (int .Values.api.replicas) 0) }}true{{ end -}}
{{- end }}

{{- define "unlensed.apiScheme" -}}
{{ ternary "HTTPS" "HTTP" (ne .Values.api.certificateSecret "") }}
{{- end }}

{{/* The name that the certificate must contain. */}}
{{- define "unlensed.apiHost" -}}
{{ include "unlensed.name" . }}-api.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "unlensed.apiVariables" -}}
- name: UNLENSED_API__HOST
  value: 0.0.0.0
- name: UNLENSED_API__PORT
  value: "8000"
{{- if .Values.api.certificateSecret }}
- name: UNLENSED_API__CERTIFICATE_FILE
  value: /etc/unlensed/api/tls.crt
- name: UNLENSED_API__KEY_FILE
  value: /etc/unlensed/api/tls.key
{{- end }}
{{- if .Values.api.tokenSecret.name }}
- name: UNLENSED_API__TOKEN_FILE
  value: /etc/unlensed/api/tokens
{{- end }}
{{- if .Values.policies }}
- name: UNLENSED_API__POLICIES
  value: /etc/unlensed/policies/policies.toml
{{- end }}
{{- end }}

{{- define "unlensed.apiVolumes" -}}
{{- with .Values.api }}
{{- if or .certificateSecret .tokenSecret.name }}
- name: api
  projected:
    defaultMode: 0440
    sources:
      {{- with .certificateSecret }}
      - secret:
          name: {{ . }}
          items:
            - key: tls.crt
              path: tls.crt
            - key: tls.key
              path: tls.key
      {{- end }}
      {{- with .tokenSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items:
            - key: {{ .key }}
              path: tokens
      {{- end }}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "unlensed.apiMounts" -}}
{{- if or .Values.api.certificateSecret .Values.api.tokenSecret.name }}
- name: api
  mountPath: /etc/unlensed/api
  readOnly: true
{{- end }}
{{- end }}

{{/* The service refuses connections from SIGTERM on, so it first waits until no Service sends any more. */}}
{{- define "unlensed.unlistSeconds" -}}5{{- end }}

{{- define "unlensed.apiGrace" -}}
{{- addf (include "unlensed.unlistSeconds" . | float64) .Values.settings.api.drain_s (include "unlensed.endsSeconds" . | float64) | ceil | int -}}
{{- end }}

{{/* Decoded copies of what is in flight take about as much again. */}}
{{- define "unlensed.apiMiB" -}}
{{- $api := .Values.settings.api -}}
{{- $held := addf (mulf 2 $api.max_in_flight_bytes) $api.cache_bytes -}}
{{- include "unlensed.scorerMiB" (dict "root" . "resources" .Values.api.resources "heldBytes" $held) -}}
{{- end }}

{{/* The images in flight of all pods, over two minutes; 0 where none is scraped. */}}
{{- define "unlensed.apiQueue" -}}
{{- printf `sum(avg_over_time(unlensed_in_flight_images{namespace="%s",pod=~"%s-api-[a-z0-9]+-[a-z0-9]+",unlensed_stage="api"}[2m])) or vector(0)` .Release.Namespace (include "unlensed.name" .) -}}
{{- end }}

{{- define "unlensed.checkApi" -}}
{{- $api := .Values.api -}}
{{- if include "unlensed.hasApi" . -}}
{{- if not .Values.insecureDev -}}
{{- if not $api.certificateSecret -}}
{{- fail "api.certificateSecret is empty, and the service refuses other machines without TLS: name a Secret with tls.crt and tls.key, or set insecureDev on a development network" -}}
{{- end -}}
{{- if not $api.tokenSecret.name -}}
{{- fail "api.tokenSecret.name is empty, and the service refuses other machines without tokens: name a Secret with one token a line, or set insecureDev on a development network" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.enabled $api.tokenSecret.name (not $api.tokenSecret.scrapeKey) -}}
{{- fail "monitoring.enabled scrapes the HTTP service, whose metrics need a token: set api.tokenSecret.scrapeKey to a key with one of the tokens" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.apiFrom) -}}
{{- fail "networkPolicy.apiFrom is empty, so that no client would reach the HTTP service: list them, or set networkPolicy.enabled to false" -}}
{{- end -}}
{{- end -}}
{{- with $api.scaling -}}
{{- if .enabled -}}
{{- if or (not .prometheus) (not $.Values.monitoring.enabled) -}}
{{- fail "api.scaling.enabled scales the HTTP service by its metrics: it needs api.scaling.prometheus and monitoring.enabled" -}}
{{- end -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail "api.scaling.minReplicas is above api.scaling.maxReplicas" -}}
{{- end -}}
{{- if ge (float64 .targetQueueImages) (float64 $.Values.settings.api.max_in_flight_images) -}}
{{- fail (printf "api.scaling.targetQueueImages is %v, but a pod admits %v images (settings.api.max_in_flight_images), so that none would be added: lower it" .targetQueueImages $.Values.settings.api.max_in_flight_images) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
