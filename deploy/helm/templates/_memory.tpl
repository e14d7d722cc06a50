{{/*
Memory of containers that decode pictures: enough for the largest one that the limits admit; the decoders share it.
The figures are measured (README.md, "Memory"), and a test measures them again.
*/}}
{{/* Bytes of a decoder for each pixel that limits.max_pixels allows. */}}
{{- define "unlensed.decodedPixelBytes" -}}24{{- end }}
{{/* Copies of a file in a decoder. */}}
{{- define "unlensed.fileCopies" -}}3{{- end }}
{{/* In MiB: the service with its engine and a decoder's fixed memory; an idle decoding process; and CUDA's memory on the
host, an allowance that was not measured. */}}
{{- define "unlensed.serviceMiB" -}}512{{- end }}
{{- define "unlensed.processMiB" -}}128{{- end }}
{{- define "unlensed.cudaMiB" -}}2048{{- end }}

{{/* The minimum memory in MiB: (dict "root" $ "processes" N "heldBytes" B "onGpu" bool). */}}
{{- define "unlensed.leastMiB" -}}
{{- $limits := .root.Values.settings.limits -}}
{{- $decoded := mulf $limits.max_pixels (include "unlensed.decodedPixelBytes" . | float64) -}}
{{- $files := mulf $limits.max_bytes (include "unlensed.fileCopies" . | float64) -}}
{{- $processes := mulf .processes (include "unlensed.processMiB" . | float64) -}}
{{- $cuda := ternary (include "unlensed.cudaMiB" . | float64) 0 .onGpu -}}
{{- addf (include "unlensed.serviceMiB" . | float64) $processes $cuda (divf (addf $decoded $files .heldBytes) 1048576) | ceil | int -}}
{{- end }}

{{/*
The minimum of a container that serves: (dict "root" $ "resources" R "heldBytes" B). Where it computes on the CPU, each of
its cores has a process that decodes.
*/}}
{{- define "unlensed.scorerMiB" -}}
{{- $values := .root.Values -}}
{{- $inProcess := eq $values.triton.mode "none" -}}
{{- $onGpu := and $inProcess (gt (int $values.gpu.count) 0) -}}
{{- $processes := int $values.settings.stream.detector_processes -}}
{{- if and $inProcess (not $onGpu) -}}
{{- $processes = max $processes (include "unlensed.cores" .resources | int) -}}
{{- end -}}
{{- include "unlensed.leastMiB" (dict "root" .root "processes" $processes "heldBytes" .heldBytes "onGpu" $onGpu) -}}
{{- end }}

{{- define "unlensed.workerMiB" -}}
{{- include "unlensed.scorerMiB" (dict "root" . "resources" .Values.resources "heldBytes" .Values.settings.stream.max_in_flight_bytes) -}}
{{- end }}

{{/* The minimum of a scan's process, which keeps at most 256 MiB of files. */}}
{{- define "unlensed.scanMiB" -}}
{{- $onGpu := and (gt (int .Values.gpu.count) 0) (eq .Values.triton.mode "none") -}}
{{- $cores := include "unlensed.cores" .Values.scan.resources | int -}}
{{- include "unlensed.leastMiB" (dict "root" . "processes" $cores "heldBytes" 268435456 "onGpu" $onGpu) -}}
{{- end }}

{{/* The number of threads: the requested CPUs, rounded up. */}}
{{- define "unlensed.cores" -}}
{{- include "unlensed.quantity" .requests.cpu | float64 | ceil | int -}}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "unlensed.quantity" -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[a-zA-Z]*$" . -}}
{{- mulf (trimSuffix $unit . | float64) (get $units $unit | default 1) -}}
{{- end }}

{{/*
Resources whose memory limit may be empty, which is the minimum: (dict "root" $ "resources" R "least" MiB "gpus" N
"where" the value's name).
*/}}
{{- define "unlensed.decoderResources" -}}
{{- $resources := deepCopy .resources -}}
{{- $limit := $resources.limits.memory -}}
{{- if not $limit -}}
{{- $_ := set $resources.limits "memory" (printf "%dMi" (int .least)) -}}
{{- else if lt (include "unlensed.quantity" $limit | float64) (mulf .least 1048576) -}}
{{- fail (printf "%s.limits.memory is %s, but pictures that settings.limits.max_pixels (%v) admits may take %d MiB: raise it, leave it empty, or lower settings.limits.max_pixels" .where $limit (int64 .root.Values.settings.limits.max_pixels) (int .least)) -}}
{{- end -}}
{{- if gt (include "unlensed.quantity" $resources.requests.memory | float64) (include "unlensed.quantity" $resources.limits.memory | float64) -}}
{{- fail (printf "%s.requests.memory is %s, more than the limit, %s" .where $resources.requests.memory $resources.limits.memory) -}}
{{- end -}}
{{- include "unlensed.resources" (dict "root" .root "resources" $resources "gpus" .gpus) -}}
{{- end }}
