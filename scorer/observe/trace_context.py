"""Copies the W3C Trace Context from request headers to result headers, and creates OpenTelemetry spans.

Rules: https://www.w3.org/TR/trace-context/ (parsing, duplicates, limits) and OpenTelemetry's semantic conventions for
messaging. Without spans the context of the request is copied unchanged, as the standard requires of a service that does
not take part in the trace. Spans contain offsets and counts, never content of a record.

The parser is our own: that of opentelemetry-api 1.45 accepts a second `traceparent`, surrounding white space and
unknown flags, changes white space in `tracestate`, and does not shorten a long one.
"""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from scorer.errors import SettingsError
from scorer.extras import pip_line

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
MAX_STATE_CHARACTERS = 512
MAX_STATE_MEMBERS = 32
LONG_MEMBER_CHARACTERS = 128  # longer entries are removed first when the state is too long
EXPORT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FLUSH_S = 3.0
KNOWN_FLAGS = 0x01  # sampled, the only flag of version 00

Attribute = str | int | float | bool

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?")
_KEY = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The current position in a trace: its id, the parent span of what follows, and the vendors' `tracestate`."""

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""


def parse_traceparent(headers: Sequence[tuple[str, bytes | None]]) -> TraceContext | None:
    """Return the context in a request's headers; None if there is none, more than one, or an invalid one.

    Of a later version than 00 the fields of 00 are read. An invalid `tracestate` is dropped; its `traceparent` stays.
    """
    parents = [value or b"" for name, value in headers if name.lower() == TRACEPARENT]
    if len(parents) != 1:
        return None
    match = _PARENT.fullmatch(parents[0].decode("ascii", errors="replace"))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    states = [(value or b"").decode("ascii", errors="replace") for name, value in headers if name.lower() == TRACESTATE]
    return TraceContext(trace_id, span_id, int(flags, 16) & KNOWN_FLAGS, _checked_state(",".join(states)))


def trace_headers(context: TraceContext | None) -> tuple[tuple[str, bytes], ...]:
    """Return the headers for `context`: one `traceparent` of version 00, and `tracestate` if it has one."""
    if context is None:
        return ()
    parent = (TRACEPARENT, f"00-{context.trace_id}-{context.span_id}-{context.flags:02x}".encode())
    return (parent, (TRACESTATE, context.state.encode())) if context.state else (parent,)


def _checked_state(text: str) -> str:
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > MAX_STATE_MEMBERS or len(keys) < len(members) or not all(map(_MEMBER.fullmatch, members)):
        return ""
    if len(text) <= MAX_STATE_CHARACTERS:
        return text if members else ""
    while len(",".join(members)) > MAX_STATE_CHARACTERS:
        long = [number for number, member in enumerate(members) if len(member) > LONG_MEMBER_CHARACTERS]
        members.pop(long[-1] if long else -1)
    return ",".join(members)


_current: ContextVar[TraceContext | None] = ContextVar("current trace", default=None)
_tracer: "Tracer | None" = None


def current_trace() -> TraceContext | None:
    """Return the context of the innermost active `with span(...)`, for log lines."""
    return _current.get()


class Span:
    """A span: ends with its `with` block, or with `end` from any thread.

    Attributes:
        context: the parent context for children and results; without OpenTelemetry the given context, or None.
    """

    def __init__(self, context: TraceContext | None, otel: "OtelSpan | None" = None) -> None:
        self.context = context
        self._otel = otel
        self._token: Token[TraceContext | None] | None = None

    def set(self, **attributes: Attribute) -> None:
        """Add attributes: offsets, counts and codes, never content."""
        if self._otel:
            self._otel.set_attributes(attributes)

    def end(self, error_type: str | None = None) -> None:
        """End the span; `error_type` is a code or the name of an exception's type, never its message."""
        if self._otel is None:
            return
        if error_type is not None:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415 - an optional extra

            self._otel.set_attribute("error.type", error_type)
            self._otel.set_status(StatusCode.ERROR)
        self._otel.end()

    def __enter__(self) -> Self:
        self._token = _current.set(self.context)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        self.end(kind.__name__ if kind else None)


def span(name: str, context: TraceContext | None, **attributes: Attribute) -> Span:
    """Start a child span of `context`, which may be from another thread; None starts a new trace."""
    return start_span(name, context, "INTERNAL", attributes)


def start_span(
    name: str, context: TraceContext | None, kind: Literal["INTERNAL", "CONSUMER"], attributes: dict[str, Attribute]
) -> Span:
    """Start a span of a given kind; see `span`."""
    if _tracer is None:
        return Span(context)
    from opentelemetry import trace  # noqa: PLC0415 - an optional extra

    parent = trace.INVALID_SPAN
    if context:
        parent = trace.NonRecordingSpan(
            trace.SpanContext(
                int(context.trace_id, 16),
                int(context.span_id, 16),
                is_remote=kind == "CONSUMER",
                trace_flags=trace.TraceFlags(context.flags),
            )
        )
    otel = _tracer.start_span(name, trace.set_span_in_context(parent), kind=trace.SpanKind[kind], attributes=attributes)
    made = otel.get_span_context()
    # The request's state is kept outside OpenTelemetry, whose own type would change it.
    state = context.state if context else ""
    ids = (trace.format_trace_id(made.trace_id), trace.format_span_id(made.span_id))
    return Span(TraceContext(*ids, int(made.trace_flags) & KNOWN_FLAGS, state), otel)


@contextmanager
def exporting_spans(exporter: "SpanExporter | None" = None) -> Iterator[None]:
    """Create and export spans within the block, if `exporter` is given or an OTEL_EXPORTER_OTLP_*ENDPOINT is set.

    OpenTelemetry's own `OTEL_*` variables set the endpoint, sampling and batching. If the exporter does not answer,
    spans are lost, and the end takes `FLUSH_S`; no record is affected.

    Raises:
        SettingsError: an endpoint is set, but the extra `otel` is not installed.
    """
    global _tracer  # noqa: PLW0603 - as in OpenTelemetry, a process has one tracer
    endpoint = next((name for name in EXPORT_VARIABLES if os.environ.get(name)), None)
    if exporter is None and endpoint is None:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        message = f"{endpoint} is set, but OpenTelemetry is not installed; unset it, or {pip_line(['otel'])}"
        raise SettingsError(message) from error
    name = os.environ.get("OTEL_SERVICE_NAME", "unlensed")
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    _tracer = provider.get_tracer("unlensed")
    try:
        yield
    finally:
        _tracer = None
        # The provider has no time limit, and waits 30 s for an endpoint that is down.
        flush = threading.Thread(target=provider.shutdown, name="flush spans", daemon=True)
        flush.start()
        flush.join(FLUSH_S)
