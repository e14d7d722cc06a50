{{/*
Memory of whatever decodes pictures. Measured with pictures of 150 to 200 megapixels that the limits admit (README.md,
"Memory"): a decoder holds at most 14.1 bytes for each pixel that limits.max_pixels allows. A test measures it again.
*/}}
{{- define "unlensed.decodedPixelBytes" -}}14.1{{- end }}
{{/* Python, libraries, network and detector, in MiB: 360 measured; and CUDA's memory on the host, an allowance that was
not measured. */}}
{{- define "unlensed.baseMiB" -}}384{{- end }}
{{- define "unlensed.cudaMiB" -}}2048{{- end }}

{{/*
The least memory, in MiB: (dict "root" $ "decoders" N "heldBytes" B "onGpu" bool). Each decoder may hold one picture of
the largest size at a time, which shares its batch with nothing.
*/}}
{{- define "unlensed.leastMiB" -}}
{{- $decoded := mulf .root.Values.settings.limits.max_pixels (include "unlensed.decodedPixelBytes" . | float64) .decoders -}}
{{- $fixed := addf (include "unlensed.baseMiB" . | float64) (ternary (include "unlensed.cudaMiB" . | float64) 0 .onGpu) -}}
{{- addf $fixed (divf (addf $decoded .heldBytes) 1048576) | ceil | int -}}
{{- end }}

{{/* Of a worker: its detectors' processes, and the engine's decoder where it computes itself. */}}
{{- define "unlensed.workerMiB" -}}
{{- $inProcess := eq .Values.triton.mode "none" -}}
{{- $stream := .Values.settings.stream -}}
{{- $decoders := add (int $stream.detector_processes) (ternary 1 0 $inProcess) -}}
{{- $onGpu := and $inProcess (gt (int .Values.gpu.count) 0) -}}
{{- include "unlensed.leastMiB" (dict "root" . "decoders" $decoders "heldBytes" $stream.max_in_flight_bytes "onGpu" $onGpu) -}}
{{- end }}

{{/* Of a scan's process: a decoder for each core, and the engine's; it holds at most 256 MiB of files. */}}
{{- define "unlensed.scanMiB" -}}
{{- $cores := include "unlensed.quantity" .Values.scan.resources.requests.cpu | float64 | ceil | int -}}
{{- $onGpu := and (gt (int .Values.gpu.count) 0) (eq .Values.triton.mode "none") -}}
{{- include "unlensed.leastMiB" (dict "root" . "decoders" (add 1 $cores) "heldBytes" 268435456 "onGpu" $onGpu) -}}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "unlensed.quantity" -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[a-zA-Z]*$" . -}}
{{- mulf (trimSuffix $unit . | float64) (get $units $unit | default 1) -}}
{{- end }}

{{/*
Resources whose memory limit may be empty, which is the least: (dict "root" $ "resources" R "least" MiB "gpus" N
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
