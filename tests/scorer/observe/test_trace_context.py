"""W3C Trace Context as the standard defines it; spans with the real SDK, and without its packages."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from scorer.errors import SettingsError
from scorer.extras import pip_line
from scorer.observe.trace_context import (
    TraceContext,
    current_trace,
    exporting_spans,
    parse_traceparent,
    span,
    trace_headers,
)
from scorer.stream.broker import Headers, Record
from scorer.stream.pipeline import record_span

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
HEXES = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda text: text.strip("0"))


def headers(parent: str | None, *states: str) -> Headers:
    """Return a record's headers with a `traceparent` and some `tracestate`s."""
    parents = () if parent is None else (("traceparent", parent.encode()),)
    return (("other", b"\xff"), *parents, *(("tracestate", state.encode()) for state in states))


def state_of(*states: str) -> str:
    """Return the `tracestate` that is kept."""
    context = parse_traceparent(headers(PARENT, *states))
    assert context is not None
    return context.state


@given(HEXES, HEXES, HEXES, st.booleans())
def test_written_headers_are_read_back(one: str, two: str, span_id: str, sampled: bool) -> None:  # noqa: FBT001 - hypothesis
    """Parsing written headers returns the same context."""
    context = TraceContext(one + two, span_id, int(sampled), "a=1,b=2")
    assert parse_traceparent(trace_headers(context)) == context


@given(st.text() | st.text("0123456789abcdefF- ", min_size=50, max_size=60), st.text())
def test_any_header_is_read_or_refused(parent: str, state: str) -> None:
    """No header raises, and each accepted one is written in a valid form."""
    context = parse_traceparent(headers(parent, state))
    if context:
        assert parse_traceparent(trace_headers(context)) == context


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        PARENT.upper(),
        PARENT + "-00",
        PARENT + "\n",
        " " + PARENT,
        PARENT.replace("00-", "ff-", 1),
        PARENT.replace("00-", "0-", 1),
        PARENT.replace("-", "_"),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"01-{TRACE}-{SPAN}-01.more",
    ],
)
def test_a_bad_traceparent_is_none(parent: str | None) -> None:
    """Case, length, version ff, zeros and additions to version 00 are refused, together with the state."""
    assert parse_traceparent(headers(parent, "a=1")) is None


def test_two_traceparents_are_none() -> None:
    """It is unknown which of two is valid, even if they are equal."""
    assert parse_traceparent((*headers(PARENT), ("Traceparent", PARENT.encode()))) is None


@pytest.mark.parametrize("more", ["", "-what-the-future-brings"])
def test_a_later_version_is_read_as_version_00(more: str) -> None:
    """It is written as version 00, with the flags that version 00 defines."""
    context = parse_traceparent(headers(f"cc-{TRACE}-{SPAN}-ff{more}"))
    assert trace_headers(context) == (("traceparent", PARENT.encode()),)


def test_header_names_have_any_case() -> None:
    """As in HTTP, where these headers are defined."""
    assert parse_traceparent((("TraceParent", PARENT.encode()),)) == TraceContext(TRACE, SPAN, 1)


def test_a_tracestate_is_carried_verbatim() -> None:
    """Also spaces around entries; several headers become one in their order."""
    assert state_of("a=1 , tenant@b=x:y/z") == "a=1 , tenant@b=x:y/z"
    assert state_of("a=1", "b=2") == "a=1,b=2"
    assert state_of("a=1;x,,b=2") == "a=1;x,,b=2"


@pytest.mark.parametrize(
    "state", ["a", "a=", "A=1", "a=1,a=2", "a=\u00fc", "a=b=c", "=1", ",".join(f"k{number}=1" for number in range(33))]
)
def test_a_bad_tracestate_is_dropped(state: str) -> None:
    """The trace continues without it."""
    assert state_of(state) == ""


def test_a_long_tracestate_loses_whole_entries() -> None:
    """Those above 128 characters first, then from the end, until 512 are left."""
    long, short = "l=" + "x" * 200, [f"k{n}=" + "y" * 90 for n in range(6)]
    assert state_of(",".join([long, *short])) == ",".join(short[:5])
    assert state_of(",".join([*short[:3], long])) == ",".join([*short[:3], long])
    assert state_of(",".join([*short[:4], long])) == ",".join(short[:4])


def test_without_spans_the_context_is_copied() -> None:
    """As the standard requires of a service that does not take part in the trace."""
    record = Record("t", 0, 0, 0, None, b"", headers(PARENT, "a=1"))
    with record_span(record, "g") as whole, span("locate", whole.context, faces=3) as stage:
        stage.set(images=1)
        assert trace_headers(stage.context) == headers(PARENT, "a=1")[1:]
        assert current_trace() == stage.context
    assert current_trace() is None
    assert trace_headers(record_span(Record("t", 0, 0, 0, None, b""), "g").context) == ()


def test_a_record_s_span_has_its_stages_below_it() -> None:
    """Kind, offset and ids of the record; children in other threads; ended by the producer's thread."""
    exporter = InMemorySpanExporter()
    record = Record("requests", 3, 1234, 0, None, b"zQ7", headers(PARENT, "a=1"))
    with exporting_spans(exporter):
        whole = record_span(record, "group")
        stage_contexts = []

        def work() -> None:
            with span("score", whole.context, batch=2) as stage:
                assert current_trace() == stage.context
                stage_contexts.append(stage.context)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        whole.end()
    *stages, ended = exporter.get_finished_spans()
    assert [made.name for made in stages] == ["score", "score"]
    assert ended.name == "process requests"
    assert ended.kind is SpanKind.CONSUMER
    assert dict(ended.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "requests",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 1234,
        "messaging.consumer.group.name": "group",
        "messaging.message.body.size": 3,
    }
    assert ended.parent
    assert (f"{ended.parent.trace_id:032x}", f"{ended.parent.span_id:016x}") == (TRACE, SPAN)
    assert {made.parent.span_id for made in stages if made.parent} == {ended.context.span_id}
    assert whole.context == TraceContext(TRACE, f"{ended.context.span_id:016x}", 1, "a=1")
    assert {context.span_id for context in stage_contexts} == {f"{made.context.span_id:016x}" for made in stages}
    assert ended.resource.attributes["service.name"] == "unlensed"
    assert not any("zQ7" in made.to_json() for made in (ended, *stages))


def failed_span(error: str | None) -> ReadableSpan:
    """Return a span that failed, by an exception or by a code."""
    exporter = InMemorySpanExporter()
    with exporting_spans(exporter):
        if error:
            span("locate", None).end(error)
        else:
            with pytest.raises(ValueError, match="zQ7"), span("locate", None):
                int("zQ7")
    return exporter.get_finished_spans()[0]


@pytest.mark.parametrize("error", [None, "ValueError"])
def test_a_failure_has_a_type_and_no_message(error: str | None) -> None:
    """A failed span has the type of its error and not the message, which may contain a URL."""
    made = failed_span(error)
    assert made.status.status_code is StatusCode.ERROR
    assert dict(made.attributes or {}) == {"error.type": "ValueError"}
    assert not made.events
    assert "zQ7" not in made.to_json()


def test_what_the_sender_did_not_sample_is_not_recorded() -> None:
    """The flag is copied, with a new parent."""
    exporter = InMemorySpanExporter()
    with exporting_spans(exporter):
        whole = record_span(Record("t", 0, 0, 0, None, b"", headers(PARENT[:-1] + "0")), "g")
        whole.end()
    assert whole.context
    assert (whole.context.trace_id, whole.context.flags) == (TRACE, 0)
    assert not exporter.get_finished_spans()


def test_a_record_without_a_trace_begins_one() -> None:
    """With spans, its result has a trace although its request had none."""
    with exporting_spans(InMemorySpanExporter()):
        whole = record_span(Record("t", 0, 0, 0, None, b""), "g")
        whole.end()
    assert parse_traceparent(trace_headers(whole.context)) == whole.context


BLOCKED = """
import sys
sys.modules["opentelemetry"] = None
from scorer.settings import SettingsError
from scorer.stream.broker import Record
from scorer.observe.trace_context import exporting_spans, span, trace_headers
from scorer.stream.pipeline import record_span
try:
    with exporting_spans():
        whole = record_span(Record("t", 0, 0, 0, None, b"", (("traceparent", sys.argv[1].encode()),)), "g")
        with span("score", whole.context):
            pass
        whole.end("ValueError")
        print(trace_headers(whole.context)[0][1].decode())
except SettingsError as error:
    print(error)
"""


MISSING = f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed; unset it, or {pip_line(['otel'])}"


@pytest.mark.parametrize(
    ("environment", "answer"),
    [
        ({}, PARENT),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            MISSING,
        ),
    ],
)
def test_it_works_without_opentelemetry(environment: dict[str, str], answer: str, root: Path) -> None:
    """Contexts are copied; an endpoint without the packages is a configuration error."""
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED, PARENT],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.strip() == answer


def test_an_endpoint_that_is_down_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is OpenTelemetry's own, from its variables; the end of the block does not wait for it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("scorer.observe.trace_context.FLUSH_S", 0.05)
    with exporting_spans():
        made = span("score", TraceContext(TRACE, SPAN, 1))
        made.end()
    assert made.context
    assert made.context.span_id != SPAN
    assert span("after", None).context is None


def test_settings_errors_are_not_swallowed_by_a_span() -> None:
    """A span lets exceptions through."""
    with pytest.raises(SettingsError), span("x", None):
        raise SettingsError
