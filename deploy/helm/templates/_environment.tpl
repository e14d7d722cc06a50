{{/* The settings of the service as its UNLENSED_* variables. */}}

{{/* All of `settings`, one variable each: stream.drain_s is UNLENSED_STREAM__DRAIN_S. */}}
{{- define "unlensed.settings" -}}
{{- range $section, $values := .Values.settings }}
{{- if kindIs "map" $values }}
{{- range $name, $value := $values }}
UNLENSED_{{ upper $section }}__{{ upper $name }}: {{ include "unlensed.text" $value | quote }}
{{- end }}
{{- else }}
UNLENSED_{{ upper $section }}: {{ include "unlensed.text" $values | quote }}
{{- end }}
{{- end }}
UNLENSED_INSECURE_DEV: {{ .Values.insecureDev | quote }}
{{- end }}

{{/* Text unchanged, everything else as JSON: a large number keeps its digits, and a list its form. */}}
{{- define "unlensed.text" -}}
{{ if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{/* Settings, and the user's variables and Secrets, of each scorer container. */}}
{{- define "unlensed.environment" -}}
envFrom:
  - configMapRef:
      name: {{ include "unlensed.name" . }}-settings
  {{- range .Values.envSecrets }}
  - secretRef:
      name: {{ . }}
  {{- end }}
{{- with .Values.env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Further variables of a worker: (dict "root" $ "mode" M). */}}
{{- define "unlensed.workerVariables" -}}
{{- $kafka := .root.Values.kafka -}}
- name: UNLENSED_STREAM__MODE
  value: {{ .mode }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: UNLENSED_KAFKA__INSTANCE_ID
  value: $(POD_NAMESPACE).$(POD_NAME)
- name: UNLENSED_HEALTH__HOST
  value: 0.0.0.0
- name: UNLENSED_HEALTH__PORT
  value: "8080"
- name: UNLENSED_KAFKA__BOOTSTRAP
  value: {{ $kafka.bootstrap | quote }}
- name: UNLENSED_KAFKA__SECURITY
  value: {{ $kafka.security }}
{{- if eq $kafka.security "sasl_tls" }}
- name: UNLENSED_KAFKA__SASL_MECHANISM
  value: {{ $kafka.saslMechanism }}
{{- end }}
{{- if include "unlensed.kafkaToken" .root }}
- name: UNLENSED_KAFKA__TOKEN_FILE
  value: /etc/unlensed/kafka/token
{{- end }}
{{- if include "unlensed.kafkaPassword" .root }}
- name: UNLENSED_KAFKA__USERNAME
  value: {{ $kafka.username | quote }}
- name: UNLENSED_KAFKA__PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $kafka.passwordSecret.name }}
      key: {{ $kafka.passwordSecret.key }}
{{- end }}
{{- if $kafka.caSecret.name }}
- name: UNLENSED_KAFKA__CA_FILE
  value: /etc/unlensed/kafka/ca.crt
{{- end }}
{{- if $kafka.certificateSecret.name }}
- name: UNLENSED_KAFKA__CERTIFICATE_FILE
  value: /etc/unlensed/kafka/client.crt
- name: UNLENSED_KAFKA__KEY_FILE
  value: /etc/unlensed/kafka/client.key
{{- end }}
{{- if .root.Values.policies }}
- name: UNLENSED_STREAM__POLICIES
  value: /etc/unlensed/policies/policies.toml
{{- end }}
{{- end }}

{{/* Whether the brokers require a password, or a token: `yes` where they do, else empty. */}}
{{- define "unlensed.kafkaPassword" -}}
{{- if and (eq .Values.kafka.security "sasl_tls") (not (has .Values.kafka.saslMechanism (list "OAUTHBEARER" "AWS_MSK_IAM"))) }}yes{{ end -}}
{{- end }}
{{- define "unlensed.kafkaToken" -}}
{{- if and (eq .Values.kafka.security "sasl_tls") (eq .Values.kafka.saslMechanism "OAUTHBEARER") }}yes{{ end -}}
{{- end }}

{{- define "unlensed.tritonClientVariables" -}}
- name: UNLENSED_TRITON__TLS
  value: "true"
- name: UNLENSED_TRITON__CA_FILE
  value: /etc/unlensed/triton/ca.crt
- name: UNLENSED_TRITON__CERTIFICATE_FILE
  value: /etc/unlensed/triton/tls.crt
- name: UNLENSED_TRITON__KEY_FILE
  value: /etc/unlensed/triton/tls.key
{{- end }}

{{/* Files of a worker for the brokers: certificates from existing Secrets, a token. */}}
{{- define "unlensed.kafkaVolumes" -}}
{{- $kafka := .Values.kafka -}}
{{- $token := include "unlensed.kafkaToken" . -}}
{{- if or $kafka.caSecret.name $kafka.certificateSecret.name $token }}
- name: kafka
  projected:
    defaultMode: 0440
    sources:
      {{- if $token }}
      - serviceAccountToken:
          path: token
          audience: {{ $kafka.token.audience | quote }}
          expirationSeconds: {{ $kafka.token.expirationSeconds }}
      {{- end }}
      {{- with $kafka.caSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items:
            - key: {{ .key }}
              path: ca.crt
      {{- end }}
      {{- end }}
      {{- with $kafka.certificateSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items:
            - key: {{ .certificate }}
              path: client.crt
            - key: {{ .key }}
              path: client.key
      {{- end }}
      {{- end }}
{{- end }}
{{- end }}

{{- define "unlensed.kafkaMounts" -}}
{{- if or .Values.kafka.caSecret.name .Values.kafka.certificateSecret.name (include "unlensed.kafkaToken" .) }}
- name: kafka
  mountPath: /etc/unlensed/kafka
  readOnly: true
{{- end }}
{{- end }}
