{{/* Refuses values that the schema allows one by one but not together; each template that depends on them includes it. */}}
{{- define "unlensed.check" -}}
{{- $kafka := .Values.kafka -}}
{{- if include "unlensed.hasWorkers" . -}}
{{- if and (eq $kafka.security "plaintext") (not .Values.insecureDev) -}}
{{- fail "kafka.security is plaintext, which the service refuses: use sasl_tls or tls, or set insecureDev on a development network" -}}
{{- end -}}
{{- if and (include "unlensed.kafkaPassword" .) (not $kafka.passwordSecret.name) -}}
{{- fail "kafka.security is sasl_tls, which needs kafka.passwordSecret.name" -}}
{{- end -}}
{{- if and (include "unlensed.kafkaToken" .) (not $kafka.token.audience) -}}
{{- fail "kafka.saslMechanism is OAUTHBEARER, which needs kafka.token.audience" -}}
{{- end -}}
{{- if and (eq $kafka.security "plaintext") (or $kafka.caSecret.name $kafka.certificateSecret.name) -}}
{{- fail "kafka.security is plaintext, which uses no certificates: leave kafka.caSecret and kafka.certificateSecret empty" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.kafka.to) -}}
{{- fail "networkPolicy.kafka.to is empty, so that no worker would reach the brokers: list them, or set networkPolicy.enabled to false" -}}
{{- end -}}
{{- end -}}
{{- if and (ne .Values.triton.mode "none") (lt (int .Values.gpu.count) 1) -}}
{{- fail "triton.mode is for GPUs: set gpu.count, or score in the workers' own processes with triton.mode none, which is faster on a CPU" -}}
{{- end -}}
{{- if and (eq .Values.triton.mode "remote") (or (not .Values.triton.serverSecret) (not .Values.triton.clientSecret)) -}}
{{- fail "triton.mode is remote, which needs triton.serverSecret and triton.clientSecret: pictures are not sent unencrypted" -}}
{{- end -}}
{{- if .Values.triton.scaling.enabled -}}
{{- if or (ne .Values.triton.mode "remote") (not .Values.triton.scaling.prometheus) (not .Values.monitoring.enabled) -}}
{{- fail "triton.scaling.enabled scales remote Tritons by their metrics: it needs triton.mode remote, triton.scaling.prometheus and monitoring.enabled" -}}
{{- end -}}
{{- if gt (int .Values.triton.scaling.minReplicas) (int .Values.triton.scaling.maxReplicas) -}}
{{- fail "triton.scaling.minReplicas is above triton.scaling.maxReplicas" -}}
{{- end -}}
{{- end -}}
{{- $bundles := list .Values.bundle -}}
{{- if ne .Values.rollout.stage "none" }}{{ $bundles = append $bundles .Values.rollout.candidate }}{{ end -}}
{{- range $bundles -}}
{{- if and (eq .source "image") (semverCompare "<1.33-0" $.Capabilities.KubeVersion.Version) -}}
{{- fail (printf "bundle.source is image, but Kubernetes %s has no image volumes: they need 1.35, or 1.33 with the feature ImageVolume; use claim or store" $.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.serviceAccount.name .Values.serviceAccount.annotations -}}
{{- fail "serviceAccount.annotations are for the chart's own account, but serviceAccount.name names an existing one: annotate that one" -}}
{{- end -}}
{{- if and .Values.plan.enabled (or (ne .Values.bundle.source "claim") (lt (int .Values.gpu.count) 1)) -}}
{{- fail "plan.enabled writes into a claim on a GPU: it needs bundle.source claim and gpu.count 1 or more" -}}
{{- end -}}
{{- if ne .Values.rollout.stage "none" -}}
{{- if eq .Values.bundle.digest .Values.rollout.candidate.digest -}}
{{- fail "rollout.candidate is the bundle that already serves: set rollout.stage to none" -}}
{{- end -}}
{{- if and .Values.plan.enabled (ne .Values.rollout.candidate.source "claim") -}}
{{- fail "plan.enabled writes into a claim: rollout.candidate.source must be claim" -}}
{{- end -}}
{{- end -}}
{{- if .Values.keda.enabled -}}
{{- if and (eq $kafka.security "sasl_tls") (not (include "unlensed.kafkaPassword" .)) -}}
{{- fail (printf "keda.enabled asks the brokers for the lag with the workers' password or certificate, and kafka.saslMechanism %s has neither: set keda.enabled to false, or give the release a user with a password" $kafka.saslMechanism) -}}
{{- end -}}
{{- if gt (int .Values.keda.maxReplicas) (int .Values.keda.partitions) -}}
{{- fail (printf "keda.maxReplicas is %v, but the requests' topic has %v partitions (keda.partitions): more workers would be idle" .Values.keda.maxReplicas .Values.keda.partitions) -}}
{{- end -}}
{{- if and .Values.strimzi.enabled (ne (int .Values.keda.partitions) (int .Values.strimzi.partitions)) -}}
{{- fail "keda.partitions and strimzi.partitions are for the same topic: give both the same number" -}}
{{- end -}}
{{- if gt (add (int .Values.keda.minReplicas) (include "unlensed.canaryReplicas" . | int)) (int .Values.keda.maxReplicas) -}}
{{- fail "keda.maxReplicas leaves no room for keda.minReplicas and the canary's workers: raise it, or lower one of them" -}}
{{- end -}}
{{- end -}}
{{- if .Values.strimzi.enabled -}}
{{- if and (eq $kafka.security "sasl_tls") (ne $kafka.saslMechanism "SCRAM-SHA-512") -}}
{{- fail "strimzi.enabled creates a user for SCRAM-SHA-512: set kafka.saslMechanism to it" -}}
{{- end -}}
{{- if and (eq $kafka.security "tls") (not $kafka.certificateSecret.name) -}}
{{- fail "strimzi.enabled with kafka.security tls creates a user with a certificate: set kafka.certificateSecret.name, which is kafka.username" -}}
{{- end -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" $kafka.username) -}}
{{- fail "strimzi.enabled names a resource after kafka.username: small letters, digits, - and . only" -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.rollout.stage "compare") (not .Values.scan.enabled) -}}
{{- fail "rollout.stage compare scans an archive with both bundles: set scan.enabled and what it scans" -}}
{{- end -}}
{{- if .Values.scan.enabled -}}
{{- if not (and .Values.scan.sources .Values.scan.claim) -}}
{{- fail "scan.enabled needs scan.sources and scan.claim" -}}
{{- end -}}
{{- if and (ne .Values.triton.mode "none") (gt (int .Values.gpu.count) 0) -}}
{{- fail "a scan computes in its own process: with triton.mode sidecar or remote the release's GPU bundle would find no GPU there; scan in a release of its own with replicas 0 and triton.mode none" -}}
{{- end -}}
{{- end -}}
{{- include "unlensed.checkApi" . -}}
{{- include "unlensed.checkNetwork" . -}}
{{- include "unlensed.checkTiming" . -}}
{{- end }}

{{/* Peers that other values need; a network policy without them would block the pods. */}}
{{- define "unlensed.checkNetwork" -}}
{{- $policy := .Values.networkPolicy -}}
{{- if $policy.enabled -}}
{{- $needs := include "unlensed.storeUsers" . -}}
{{- if and $needs (not $policy.store.to) -}}
{{- fail (printf "networkPolicy.store.to is empty, so that no pod would reach the store that %s: list its addresses and those of the service that issues a workload's identity, or set networkPolicy.enabled to false" $needs) -}}
{{- end -}}
{{- range .Values.env -}}
{{- if and (hasPrefix "OTEL_EXPORTER_OTLP" .name) (hasSuffix "ENDPOINT" .name) (not $policy.telemetry.to) -}}
{{- fail (printf "networkPolicy.telemetry.to is empty, so that no pod would reach the collector of %s: list it, or set networkPolicy.enabled to false" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The first value that makes pods read from a store or over https; empty where none does. */}}
{{- define "unlensed.storeUsers" -}}
{{- $users := list -}}
{{- $fetched := ternary (list "store" "claim") (list "store") .Values.plan.enabled -}}
{{- if and .Values.bundle.uri (has .Values.bundle.source $fetched) }}{{ $users = append $users "bundle.uri names" }}{{ end -}}
{{- if and (ne .Values.rollout.stage "none") .Values.rollout.candidate.uri (has .Values.rollout.candidate.source $fetched) -}}
{{- $users = append $users "rollout.candidate.uri names" -}}
{{- end -}}
{{- if without .Values.settings.payloads.schemes "file" -}}
{{- $users = append $users "settings.payloads.schemes allows" -}}
{{- end -}}
{{- if .Values.settings.payloads.https_hosts }}{{ $users = append $users "settings.payloads.https_hosts allows" }}{{ end -}}
{{- if .Values.scan.enabled -}}
{{- range .Values.scan.sources -}}
{{- if and (contains "://" .) (not (hasPrefix "file://" .)) }}{{ $users = append $users "scan.sources names" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $users }}{{ first $users }}{{ end -}}
{{- end }}
