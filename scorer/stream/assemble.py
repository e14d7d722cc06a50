"""Builds the service from its settings and runs it: on Kafka, or on a file of requests in memory."""

import ctypes
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from threadpoolctl import threadpool_limits

from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle
from scorer.bundle.signature import read_trusted_bundle
from scorer.engines.base import Embedder
from scorer.engines.local import open_local_engine, open_sandbox, start_sandbox
from scorer.engines.pool import EmbedderPool
from scorer.engines.precut import PrecutEmbedder
from scorer.engines.verify import verify_engine
from scorer.errors import BundleMismatch, UsageError
from scorer.observe.logs import configure_logs, get_logger
from scorer.observe.printable import print_json
from scorer.observe.trace_context import exporting_spans
from scorer.payloads.read import check_payloads, read_payload
from scorer.policies import PolicyWatcher
from scorer.process_exit import stop_on_signals
from scorer.settings import Settings
from scorer.stream.broker import Outgoing, RecordSink, RecordSource
from scorer.stream.health import Canary, HealthServer, HealthState
from scorer.stream.memory_broker import MemoryBroker, MemorySink, MemorySource
from scorer.stream.metrics import Metrics
from scorer.stream.pipeline import Dependencies
from scorer.stream.retry import RetryingEmbedder, RetryStopped
from scorer.stream.service import Service
from scorer.transport import require_private_transport

CANARY_FACES = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES, POOLED_BYTES = 256 * 2**20, 32 * 2**20

log = get_logger(__name__)


class ReplaySink(MemorySink):
    """Also writes results to `out` and dead letters to `dead_letters_out`, one JSON object a line.

    Attributes:
        dead_letters: the number of dead letters.
    """

    def __init__(self, broker: MemoryBroker, results_topic: str, out: TextIO, dead_letters_out: TextIO) -> None:
        super().__init__(broker)
        self._results_topic, self._out, self._dead_letters_out = results_topic, out, dead_letters_out
        self.dead_letters = 0

    def deliver(self, records: Sequence[Outgoing]) -> None:
        """Write the records; the broker stores none."""
        for record in records:
            if record.topic == self._results_topic:
                print_json((record.value or b"").decode(), self._out)
            else:
                self.dead_letters += 1
                facts = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
                print_json(json.dumps({"dead_letter": facts}), self._dead_letters_out)


def serve(settings: Settings) -> int:
    """Answer the records of Kafka until SIGTERM or SIGINT, then return 0; a second signal exits at once.

    Raises:
        SettingsError, PolicyError, BundleMismatch, BrokerRefused: it cannot run.
    """
    from scorer.stream.kafka.connect import check_settings, connect  # noqa: PLC0415 - only `serve` needs the client

    configure_logs(json=not sys.stderr.isatty())
    check_settings(settings.kafka, insecure_dev=settings.insecure_dev)
    _run(
        settings,
        partial(connect, settings.kafka, settings.stream, insecure_dev=settings.insecure_dev),
        until_drained=False,
    )
    return 0


def replay(settings: Settings, requests: Path) -> int:
    """Answer the requests in a file of JSON lines with the same service; return the number of dead letters.

    Results go to standard output, dead letters to standard error.
    """
    configure_logs(json=not sys.stderr.isatty())
    if not requests.exists():
        message = f"--replay: there is no file {requests}"
        raise UsageError(message)
    broker = MemoryBroker()
    with requests.open("rb") as lines:
        broker.append(Outgoing(settings.stream.requests, None, line.strip()) for line in lines if line.strip())
    sink = ReplaySink(broker, settings.stream.results_topic, sys.stdout, sys.stderr)
    source = MemorySource(broker, settings.stream.requests)
    if broker.topics:
        _run(settings, lambda: (source, sink), until_drained=True)
    return sink.dead_letters


def _run(settings: Settings, connect: Callable[[], tuple[RecordSource, RecordSink]], *, until_drained: bool) -> None:
    tune_process()
    check_payloads(settings.payloads)
    bundle = read_trusted_bundle(settings)
    watcher = PolicyWatcher(
        settings.stream.policies, bundle.manifest.calibration, settings.policy, provenance=settings.provenance.enabled
    )
    metrics, stop = Metrics(), threading.Event()
    state = HealthState(settings.health, engine_elsewhere=settings.triton.url is not None)
    metrics.bundle_info.info(
        {
            "bundle_id": bundle.model.bundle_id,
            "digest": bundle.model.digest,
            "mode": settings.stream.mode,
            "delivery": settings.stream.delivery,
        }
    )
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stop.set, second=signal.SIG_DFL))
        stack.enter_context(exporting_spans())
        server = stack.enter_context(HealthServer(settings.health, state, metrics))
        log.info("health and metrics", url=server.url)
        sandbox = stack.enter_context(open_decoders(bundle, settings))
        engine = stack.enter_context(open_engine(bundle, settings, sandbox, metrics.engine_info.info))
        make_retrying = partial(
            RetryingEmbedder, engine, bundle.manifest.feature_size, partial(verify_engine, bundle, engine)
        )
        try:
            make_retrying(stop, partial(_note_outage, metrics, state, starting=True)).wait_for_engine()
        except RetryStopped:
            return
        give_up = threading.Event()  # set after the drain's deadline
        stack.callback(give_up.set)
        embedder = make_retrying(give_up, partial(_note_outage, metrics, state))
        log.info("the engine gives the golden results", bundle=bundle.model.bundle_id, digest=bundle.model.digest)
        start_sandbox(sandbox)
        state.set_ready(ready=True, why="")
        dependencies = Dependencies(
            lambda request, max_bytes: read_payload(request, settings.payloads, max_bytes),
            sandbox,
            embedder,
            bundle.model,
            settings.limits,
            watcher,
            settings.video,
            provenance=settings.provenance.enabled,
        )
        source, sink = connect()
        service = Service(
            source,
            sink,
            dependencies,
            settings.stream,
            metrics=metrics,
            state=state,
            stop=stop,
            engine_waits=lambda: embedder.waiting,
        )
        stack.enter_context(
            Canary(partial(check_engine, bundle, engine, service.crash), state, settings.health.canary_every_s)
        )
        service.run(until_drained=until_drained)


def tune_process() -> None:
    """Tune NumPy and the allocator for many small batches of large records.

    Measured on 2 cores, starter bundle, core-ms of the worker for each image: 7.0 with the defaults, 4.5 with one BLAS
    thread (a second one spins between the mixture's small products), 3.5 when freed memory of records is also reused
    instead of being returned to the system.
    """
    threadpool_limits(limits=1, user_api="blas")
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, POOLED_BYTES)


@contextmanager
def open_engine(
    bundle: Bundle,
    settings: Settings,
    sandbox: Sandbox,
    show: Callable[[dict[str, str]], object] = lambda _labels: None,
) -> Iterator[Embedder]:
    """Yield the engine of `bundle`: in this process, or Triton; `show` gets the labels of `unlensed_engine_info`."""
    if settings.triton.url is None:
        local = open_local_engine(bundle, settings.device, settings.threads, sandbox)
        device = local.device
        log.info("scoring in this process", device=device.kind, reason=device.reason, engine=local.name, why=local.why)
        on_gpu = device.kind == "cuda"
        show({"mixture": "cupy", "features": "device"} if on_gpu else {"mixture": "numpy", "features": "host"})
        # On a GPU one batch is decoded while another is in the network; on a CPU both use the same cores.
        yield EmbedderPool([local.embedder, local.embedder.share()] if on_gpu else [local.embedder])
        return
    from scorer.engines.triton.embedder import TritonEmbedder, open_stream  # noqa: PLC0415

    require_private_transport(settings.triton.url, encrypted=settings.triton.tls, insecure_dev=settings.insecure_dev)
    stream, reason = open_stream(bundle, settings.device)
    mixture = "cupy" if stream else "numpy"

    def tell(features: str, why: str) -> None:
        log.info("where the features of Triton are", features=features, why=why)
        show({"mixture": mixture, "features": features})

    log.info("scoring through Triton", url=settings.triton.url, mixture=mixture, reason=reason)
    triton = TritonEmbedder(bundle, settings.triton, stream, tell)
    try:
        yield PrecutEmbedder(triton, sandbox, on_gpu=bundle.manifest.target == "tensorrt")
    finally:
        triton.close()


@contextmanager
def open_decoders(bundle: Bundle, settings: Settings) -> Iterator[Sandbox]:
    """Yield the processes that find faces; they also cut them where this process embeds on the CPU with every core."""
    stream, cuts = settings.stream, settings.triton.url is None and bundle.manifest.target == "openvino"
    processes = max(stream.detector_processes, settings.threads) if cuts else stream.detector_processes
    trust, timeout_s = settings.provenance.read_trust(), stream.detector_timeout_s
    with closing(open_sandbox(bundle, processes, cuts=cuts, timeout_s=timeout_s, trust=trust)) as sandbox:
        yield sandbox


def check_engine(bundle: Bundle, engine: Embedder, crash: Callable[[BaseException], None]) -> None:
    """Send a golden face through the engine; after a wrong result the service must not score another record."""
    try:
        verify_engine(bundle, engine, CANARY_FACES)
    except BundleMismatch as error:
        crash(error)
        raise


def _note_outage(metrics: Metrics, state: HealthState, error: str | None, *, starting: bool = False) -> None:
    if starting:
        state.polled()  # the poll loop has not started
    metrics.backend_up.set(error is None)
    if error is None:
        log.info("the engine answers")
    else:
        metrics.backend_retries.labels(backend="engine").inc()
        state.canary(ok=False, detail=error)
        log.warning("the engine does not answer; retrying", error=error)
