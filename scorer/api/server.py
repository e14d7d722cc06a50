"""Builds the HTTP service from its settings and runs it until a signal: engine, routes, limits, TLS, drain."""

import asyncio
import math
import signal
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette

from ingest.sandbox import Sandbox
from scorer.api.admission import Admission
from scorer.api.cache import ResultCache
from scorer.api.metrics import ApiMetrics
from scorer.api.routes import ApiParts, create_app
from scorer.api.scoring import ScoringService
from scorer.api.tokens import TokenFile
from scorer.bundle.bundle import Bundle
from scorer.bundle.signature import read_trusted_bundle
from scorer.engines.base import Embedder
from scorer.engines.local import start_sandbox
from scorer.engines.verify import verify_engine
from scorer.errors import SettingsError
from scorer.explain.explain import Explainer, count_photographs
from scorer.messages import CalibratedBy
from scorer.observe.logs import configure_logs, get_logger
from scorer.payloads.read import check_payloads, read_payload
from scorer.policies import PolicyWatcher
from scorer.process_exit import stop_on_signals
from scorer.settings import ApiSettings, Settings
from scorer.stream.assemble import check_engine, open_decoders, open_engine, tune_process
from scorer.stream.health import Canary, HealthState
from scorer.stream.pipeline import Dependencies
from scorer.stream.retry import RetryingEmbedder, RetryStopped
from scorer.transport import is_loopback, require_private_transport

BEAT_S = 1.0
BACKLOG = 256
SHOWN = {
    "bundle_id",
    "licence",
    "target",
    "extractor",
    "feature_size",
    "precision",
    "mixture_components",
    "calibration_id",
    "calibration_size",
    "calibration_photographs",
    "calibration_strata",
    "provenance",
    "evaluation",
}

log = get_logger(__name__)


def serve(settings: Settings) -> None:
    """Answer HTTP requests until SIGTERM or SIGINT, then finish those in flight; a second signal exits at once.

    Raises:
        SettingsError, PolicyError, BundleMismatch, SandboxBroken: it cannot run.
        OSError: the port is in use.
    """
    configure_logs(json=not sys.stderr.isatty())
    check_settings(settings)
    check_payloads(settings.payloads)
    tune_process()
    stop = threading.Event()
    failures: list[Exception] = []

    def give_up(error: BaseException) -> None:
        failures.append(error if isinstance(error, Exception) else RuntimeError(str(error)))
        stop.set()

    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stop.set, second=signal.SIG_DFL))
        listener = stack.enter_context(closing(bind(settings.api)))
        bundle = read_trusted_bundle(settings)
        decoders = stack.enter_context(open_decoders(bundle, settings))
        engine = stack.enter_context(open_engine(bundle, settings, decoders))
        state = HealthState(settings.health, engine_elsewhere=settings.triton.url is not None)
        retrying = partial(
            RetryingEmbedder, engine, bundle.manifest.feature_size, partial(verify_engine, bundle, engine)
        )
        try:
            retrying(stop, partial(_note_outage, state)).wait_for_engine()
        except RetryStopped:
            return
        start_sandbox(decoders)
        ended = threading.Event()
        stack.callback(ended.set)
        embedder = retrying(ended, partial(_note_outage, state))
        app = stack.enter_context(open_app(settings, bundle, decoders, embedder, state, give_up))
        state.set_ready(ready=True, why="")
        check = partial(check_engine, bundle, engine, give_up)
        stack.enter_context(Canary(check, state, settings.health.canary_every_s))
        listener.listen(BACKLOG)
        log.info("the HTTP service answers", url=name_url(settings.api, listener))
        run_server(app, settings.api, listener, stop)
        log.info("the HTTP service has answered its requests and ends")
    if failures:
        raise failures[0]


def check_settings(settings: Settings) -> None:
    """Refuse settings that would show pictures or results to others.

    Raises:
        SettingsError: the service would listen for other machines without TLS or without tokens, or a file is missing.
    """
    api = settings.api
    if (api.certificate_file is None) != (api.key_file is None):
        message = "TLS needs both api.certificate_file and api.key_file"
        raise SettingsError(message)
    if api.certificate_file and api.key_file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(api.certificate_file, api.key_file)
        except OSError as error:
            message = f"api.certificate_file and api.key_file cannot be used: {error}"
            raise SettingsError(message) from error
    require_private_transport(api.host, encrypted=api.certificate_file is not None, insecure_dev=settings.insecure_dev)
    if not (is_loopback(api.host) or api.token_file or settings.insecure_dev):
        message = f"api.host is {api.host}: other machines may connect, so name the tokens of clients in api.token_file"
        raise SettingsError(message)


@contextmanager
def open_app(  # noqa: PLR0913, PLR0917 - one parameter per collaborator
    settings: Settings,
    bundle: Bundle,
    decoders: Sandbox,
    embedder: Embedder,
    state: HealthState,
    give_up: Callable[[BaseException], object],
) -> Iterator[FastAPI]:
    """Yield the application on an engine; `give_up` is called when it cannot score another image.

    Raises:
        SettingsError: the file of tokens cannot be used.
        PolicyError: the policies cannot be used.
    """
    api, model = settings.api, bundle.model
    policies = PolicyWatcher(
        api.policies, bundle.manifest.calibration, settings.policy, provenance=settings.provenance.enabled
    )
    admission = Admission(api.max_in_flight_images, api.max_in_flight_bytes)
    cache = ResultCache(api.cache_bytes, model.digest, settings.video)
    metrics = ApiMetrics(admission, cache)
    metrics.bundle_info.info({"bundle_id": model.bundle_id, "digest": model.digest})
    dependencies = Dependencies(
        lambda request, max_bytes: read_payload(request, settings.payloads, max_bytes),
        decoders,
        embedder,
        model,
        settings.limits,
        policies,
        settings.video,
        provenance=settings.provenance.enabled,
    )
    explains = settings.triton.url is None and bundle.manifest.target == "openvino"
    explainer = Explainer(bundle, decoders, embedder, settings.limits, settings.video) if explains else None
    scoring = ScoringService(dependencies, api, cache, metrics, give_up, explainer)
    parts = ApiParts(
        scoring,
        admission,
        metrics,
        state,
        api,
        describe_bundle(bundle),
        TokenFile(api.token_file) if api.token_file else None,
        any_host=not is_loopback(api.host),
    )
    with closing(scoring):
        yield create_app(parts, _beating(state, policies, metrics))


def describe_bundle(bundle: Bundle) -> Mapping[str, Any]:
    """Return what clients may know of a bundle."""
    calibration = bundle.model.calibration
    histograms = {name.value: count_photographs(values) for name, values in calibration.strata.items()}
    histograms[CalibratedBy.POOLED] = count_photographs(calibration.pooled)
    shown = bundle.manifest.model_dump(mode="json", include=SHOWN)
    return shown | {"bundle_digest": bundle.model.digest, "calibration": histograms}


@asynccontextmanager
async def _beating(state: HealthState, policies: PolicyWatcher, metrics: ApiMetrics) -> AsyncIterator[None]:
    """Note that the event loop runs, and read changed policies, while the block runs."""

    async def beat() -> None:
        while True:
            state.polled()
            await asyncio.to_thread(policies.reload_if_changed)
            metrics.policy_refused.set(policies.refused)
            metrics.backend_up.set(state.ready().ok)
            await asyncio.sleep(BEAT_S)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class _Server(uvicorn.Server):
    """Ends when `stop` is set; signals are handled by `stop_on_signals`."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()


def run_server(app: Starlette, settings: ApiSettings, listener: socket.socket, stop: threading.Event) -> None:
    """Serve until `stop` is set, then refuse new connections and finish the requests in flight within `drain_s`."""
    config = uvicorn.Config(
        app,
        http="h11",  # it limits the size of headers
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        backlog=BACKLOG,
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
        ssl_certfile=settings.certificate_file,
        ssl_keyfile=settings.key_file,
    )
    _Server(config, stop).run(sockets=[listener])


def name_url(settings: ApiSettings, listener: socket.socket) -> str:
    """Return the address of the service."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.certificate_file else 'http'}://{host}:{listener.getsockname()[1]}"


def bind(settings: ApiSettings) -> socket.socket:
    """Return a socket at the address of the service, which does not listen yet.

    Raises:
        OSError: the port is in use, or there is no such address.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return _listen_at(settings, family)
    except OSError as error:
        message = f"cannot listen on {settings.host}:{settings.port}; choose another UNLENSED_API__PORT"
        raise OSError(error.errno, f"{message} ({error.strerror})") from error


def _listen_at(settings: ApiSettings, family: socket.AddressFamily) -> socket.socket:
    # asyncio turns off Nagle's algorithm only where the protocol is named; with it an answer takes 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError:
        listener.close()
        raise
    return listener


def _note_outage(state: HealthState, error: str | None) -> None:
    state.polled()
    if error is None:
        state.canary(ok=True, detail="")
        log.info("the engine gives the golden results")
    else:
        state.canary(ok=False, detail=error)
        log.warning("the engine does not answer; retrying", error=error)
