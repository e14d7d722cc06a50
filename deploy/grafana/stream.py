"""The dashboard of the stream: lag, throughput, latency, failures, processes, Triton and GPUs."""

from deploy.grafana.panels import Panel

MINE = 'job=~"$job", unlensed_stage=~"$stage"'
OURS = f"{{{MINE}}}"
WORKER, WORKERS_NAME = "pod, instance", "{{pod}} {{instance}}"
RATE = "[$__rate_interval]"
HTTP = 'job=~"$job", unlensed_stage="api"'
HTTP_SECONDS = f'unlensed_stage_seconds_bucket{{{HTTP}, stage="total"}}'


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """Return the sum of a counter's rates over all workers, by some of its labels."""
    selector = ", ".join(filter(None, [MINE, labels]))
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{selector}}}{RATE}))"


def quantile(share: float, metric: str, labels: str = "", by: str = "") -> str:
    """Return a quantile of a histogram over all workers."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, ', '.join(filter(None, ['le', by])))})"


def mean(metric: str, by: str = "") -> str:
    """Return the mean of a histogram's observations."""
    return f"{rate(f'{metric}_sum', by=by)} / {rate(f'{metric}_count', by=by)}"


def triton(metric: str) -> str:
    """Return the sum of a Triton counter's rates by model."""
    return rate(metric, 'model=~"face_.*"', "model")


def scaler(metric: str) -> str:
    """Return a number of replicas of the autoscaler, from kube-state-metrics."""
    return f'max by (horizontalpodautoscaler) ({metric}{{horizontalpodautoscaler=~".*unlensed.*"}})'


TITLE = "unlensed: stream"
DESCRIPTION = "Lag, throughput, latency, failures; Triton and GPU below."
ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel(
            "Workers",
            "Workers that answer a scrape. Fewer than you run: look at their pods and logs.",
            "short",
            ((f"count(unlensed_bundle_info{OURS}) or vector(0)", ""),),
            "stat",
            4,
        ),
        Panel(
            "Lag",
            "Age of the oldest record in flight at any worker: how late the answers are. Red: see *How far behind*.",
            "s",
            ((f"max(unlensed_lag_seconds{OURS})", ""),),
            "stat",
            4,
            limit=60,
        ),
        Panel(
            "Images a second",
            "Results that the broker acknowledged.",
            "short",
            ((rate("unlensed_records_answered_total"), ""),),
            "stat",
            4,
        ),
        Panel(
            "Workers with an engine",
            "Share of the workers whose engine answers. Below 100 %: look at Triton's pods and logs.",
            "percentunit",
            ((f"avg(unlensed_backend_up{OURS})", ""),),
            "stat",
            4,
        ),
        Panel(
            "Dead letters in an hour",
            "`unlensed dlq list` shows which and why.",
            "short",
            ((f"sum(increase(unlensed_records_dead_total{OURS}[1h]))", ""),),
            "stat",
            4,
            limit=1,
        ),
        Panel(
            "99 % answered within",
            "From the poll of a record to its acknowledged answer.",
            "s",
            ((quantile(0.99, "unlensed_stage_seconds", 'stage="total"'), ""),),
            "stat",
            4,
        ),
    ),
    "How far behind": (
        Panel(
            "Lag in seconds",
            "Age of the oldest record in flight by the broker's timestamp. Rises by one second a second when a worker "
            "is stuck.",
            "s",
            ((f"max by ({WORKER}) (unlensed_lag_seconds{OURS})", WORKERS_NAME),),
            limit=60,
        ),
        Panel(
            "Lag in records",
            "Records after the last one that was read. One partition far above the others: a hot key, a stuck worker, "
            "or an open transaction.",
            "short",
            (
                (
                    f"sum by (unlensed_stage, topic, partition) (unlensed_lag_records{OURS})",
                    "{{topic}} {{partition}} {{unlensed_stage}}",
                ),
            ),
        ),
        Panel(
            "Open transactions",
            "How long an open transaction has blocked the records after it. Requests are read with `read_committed`: "
            "find the producer that does not end it (`kafka-transactions.sh find-hanging`).",
            "s",
            (
                (
                    f"max by (unlensed_stage, topic, partition) (unlensed_transaction_open_seconds{OURS})",
                    "{{topic}} {{partition}} {{unlensed_stage}}",
                ),
            ),
            limit=300,
        ),
        Panel(
            "Requests deleted unread",
            "The broker deleted them before a worker read them; the workers' logs name the offsets.",
            "short",
            (
                (
                    f"sum by (topic) (unlensed_records_expired_total{OURS}) or on () vector(0)",
                    "{{topic}}",
                ),
            ),
        ),
        Panel(
            "Replicas",
            "Replicas that KEDA wants, and those that run. At the maximum while lag grows: add partitions or nodes.",
            "short",
            (
                (
                    scaler("kube_horizontalpodautoscaler_status_desired_replicas"),
                    "{{horizontalpodautoscaler}}: wanted",
                ),
                (
                    scaler("kube_horizontalpodautoscaler_spec_max_replicas"),
                    "{{horizontalpodautoscaler}}: at most",
                ),
                (f"count(unlensed_bundle_info{OURS}) or vector(0)", "running"),
            ),
        ),
    ),
    "How fast": (
        Panel(
            "Records answered a second, by status",
            "Results acknowledged by the broker.",
            "short",
            ((rate("unlensed_records_answered_total", by="status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Records in and out a second",
            "In steady state both lines are equal.",
            "short",
            (
                (rate("unlensed_records_received_total"), "polled"),
                (f"{rate('unlensed_records_answered_total')} + {rate('unlensed_records_dead_total')}", "answered"),
            ),
        ),
        Panel(
            "Bytes polled a second",
            "Keys, values and headers.",
            "Bps",
            ((rate("unlensed_record_bytes_received_total"), "bytes"),),
        ),
        Panel(
            "Batch size",
            "Small batches under load: `stream.batch_age_s` is too short, or too few records are in flight.",
            "short",
            (
                (mean("unlensed_batch_images"), "images, mean"),
                (mean("unlensed_batch_faces"), "faces, mean"),
                (quantile(0.95, "unlensed_batch_images"), "images, 95 %"),
            ),
        ),
        Panel(
            "In flight",
            "Records polled and not yet acknowledged.",
            "short",
            ((f"sum by ({WORKER}) (unlensed_in_flight_images{OURS})", WORKERS_NAME),),
        ),
        Panel(
            "Bytes in flight",
            "Records, their images, and answers without acknowledgement; `stream.max_in_flight_bytes` limits them.",
            "bytes",
            ((f"sum by ({WORKER}) (unlensed_in_flight_bytes{OURS})", WORKERS_NAME),),
        ),
    ),
    "How long": (
        Panel(
            "From poll to answer",
            "All stages of a record together.",
            "s",
            tuple(
                (quantile(share, "unlensed_stage_seconds", 'stage="total"'), f"{share:.0%}")
                for share in (0.5, 0.95, 0.99)
            ),
        ),
        Panel(
            "Mean seconds by stage",
            "payload: fetch; locate: find faces; wait: for a batch; score: engine and mixture; deliver: broker.",
            "s",
            ((mean("unlensed_stage_seconds", by="stage"), "{{stage}}"),),
        ),
        Panel(
            "95 % within, by stage",
            "Which stage makes slow records slow.",
            "s",
            ((quantile(0.95, "unlensed_stage_seconds", by="stage"), "{{stage}}"),),
        ),
    ),
    "What fails": (
        Panel(
            "Dead letters a second, by code",
            "scorer/stream/README.md explains each code.",
            "short",
            ((rate("unlensed_records_dead_total", by="code"), "{{code}}"),),
        ),
        Panel(
            "Retries a second",
            "Retries of calls to the engine or the broker, which was unavailable.",
            "short",
            ((rate("unlensed_backend_retries_total", by="backend"), "{{backend}}"),),
        ),
        Panel(
            "Pauses begun a second, by reason",
            "bytes or images: a budget is used up, which is normal at full load; backend or broker: it is down.",
            "short",
            ((rate("unlensed_pauses_total", by="reason"), "{{reason}}"),),
        ),
        Panel(
            "Share of workers paused",
            "Their partitions are paused.",
            "percentunit",
            ((f"avg(unlensed_paused{OURS})", "paused"),),
        ),
        Panel(
            "Records processed alone",
            "A worker crashed while it processed them; three crashes make a dead letter `kills_worker`.",
            "short",
            ((rate("unlensed_isolated_records_total"), "alone"),),
        ),
        Panel(
            "Policy file",
            "Workers that refuse it: their logs name the mistake, and the previous policies stay in force.",
            "short",
            (
                (f"sum(unlensed_policy_refused{OURS})", "workers that refuse it"),
                (f"sum(increase(unlensed_policy_reloads_total{OURS}[$__rate_interval]))", "loaded"),
            ),
        ),
    ),
    "HTTP service": (
        Panel(
            "Images answered and requests refused a second",
            "overloaded: the queue is full, and clients are told to wait; defect: the log says why.",
            "short",
            (
                (f"sum by (status) (rate(unlensed_images_answered_total{{{HTTP}}}{RATE}))", "{{status}}"),
                (f"sum by (code) (rate(unlensed_http_refusals_total{{{HTTP}}}{RATE})) > 0", "refused: {{code}}"),
            ),
        ),
        Panel(
            "99 % answered within",
            "From the admission of an image to its answer, without explanations.",
            "s",
            ((f"histogram_quantile(0.99, sum by (le) (rate({HTTP_SECONDS}{RATE})))", ""),),
        ),
        Panel(
            "Queue",
            "Images admitted and not yet answered; at `api.max_in_flight_images` requests are refused.",
            "short",
            ((f"sum by ({WORKER}) (unlensed_in_flight_images{{{HTTP}}})", WORKERS_NAME),),
        ),
    ),
    "Processes": (
        Panel(
            "Cores",
            "CPU seconds a second, with the processes that find faces. At the pod's limit: more pods, or more cores.",
            "short",
            ((f"sum by ({WORKER}) (rate(process_cpu_seconds_total{OURS}{RATE}))", WORKERS_NAME),),
        ),
        Panel(
            "Resident memory",
            "With the processes that find faces. Constant in steady state. Near the pod's limit: raise it, or lower "
            "`stream.max_in_flight_bytes`.",
            "bytes",
            ((f"process_resident_memory_bytes{OURS}", WORKERS_NAME),),
        ),
        Panel(
            "Core-seconds an image",
            "Of the workers with the processes that find faces, without Triton; use it for sizing.",
            "s",
            ((f"{rate('process_cpu_seconds_total')} / {rate('unlensed_records_answered_total')}", "core-seconds"),),
        ),
    ),
    "Triton": (
        Panel(
            "Queue, mean",
            "How long a request waits for a model instance. Grows when the engine is the bottleneck.",
            "µs",
            ((f"{triton('nv_inference_queue_duration_us')} / {triton('nv_inference_request_success')}", "{{model}}"),),
        ),
        Panel(
            "Inference, mean",
            "How long the execution of a request's batch takes; for the ensemble, all its steps together.",
            "µs",
            (
                (
                    f"{triton('nv_inference_compute_infer_duration_us')} / {triton('nv_inference_request_success')}",
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            "Faces an execution",
            "Batch size of the dynamic batcher.",
            "short",
            ((f"{triton('nv_inference_count')} / {triton('nv_inference_exec_count')}", "{{model}}"),),
        ),
        Panel(
            "Requests waiting",
            "In the server's queues.",
            "short",
            ((f"sum by (model) (nv_inference_pending_request_count{OURS})", "{{model}}"),),
        ),
        Panel(
            "Failures a second",
            "Bad images count too: on a CPU the server decodes the bytes again.",
            "short",
            ((triton("nv_inference_request_failure"), "{{model}}"),),
        ),
    ),
    "GPU": (
        Panel(
            "Utilisation",
            "From Triton or from NVIDIA's DCGM exporter.",
            "percentunit",
            (
                (f"avg by (gpu_uuid) (nv_gpu_utilization{OURS})", "{{gpu_uuid}}"),
                ("avg by (Hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "{{Hostname}} {{gpu}}"),
            ),
        ),
        Panel(
            "Memory in use",
            "Of all processes on the GPU.",
            "bytes",
            (
                (f"avg by (gpu_uuid) (nv_gpu_memory_used_bytes{OURS})", "{{gpu_uuid}}"),
                ("avg by (Hostname, gpu) (DCGM_FI_DEV_FB_USED) * 1048576", "{{Hostname}} {{gpu}}"),
            ),
        ),
        Panel(
            "Power",
            "At the limit, the GPU lowers its clocks.",
            "watt",
            (
                (f"avg by (gpu_uuid) (nv_gpu_power_usage{OURS})", "{{gpu_uuid}}"),
                ("avg by (Hostname, gpu) (DCGM_FI_DEV_POWER_USAGE)", "{{Hostname}} {{gpu}}"),
            ),
        ),
    ),
}
