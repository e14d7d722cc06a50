"""Log lines: format, throttling, sources, and errors while they are written."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from structlog.stdlib import BoundLogger

from scorer.observe.logs import MAX_EVENTS, REPEAT_S, JsonLines, PlainLines, Throttle
from scorer.observe.trace_context import TraceContext, span

WORKER = """
import logging, sys, threading, time, warnings
from scorer.observe.logs import configure_logs, get_logger
from scorer.observe.trace_context import TraceContext, span

class Rude:
    def __str__(self):
        raise RuntimeError("password=zQ7")

configure_logs(json=sys.argv[1] == "json")
log = get_logger("scorer.stream.service")
with span("locate", TraceContext("a" * 32, "b" * 16)):
    log.info("partitions assigned", partitions=[1, 2])
log.debug("nobody wants to know")
import kafka
kafka_log = logging.getLogger("kafka.client")
kafka_log.info("connecting")
kafka_log.warning("no answer from %s", "https://u:zQ7@h/p?q=zQ7")
kafka_log.error("%s of %s", Rude(), b"zQ7")
kafka_log.error(Rude())
kafka_log.error("too few arguments %s %s", "zQ7")
warnings.warn("old: password=zQ7")
for number in range(1000):
    log.warning("the engine does not answer", tries=number)
try:
    raise ValueError("https://h/p?q=zQ7")
except ValueError:
    log.exception("a reload failed", path="/a")
thread = threading.Thread(target=lambda: [][0], name="poller")
thread.start()
thread.join()
raise OSError("cannot read https://u:zQ7@h/p")
"""


def write(handler_format: logging.Formatter, log_it: Callable[[BoundLogger], None]) -> str:
    """Return the line that the formatter makes of the record that `log_it` writes to a logger."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger = logging.Logger("scorer.here")  # noqa: LOG001 - a logger of this test's own
    handler = Lines()
    handler.setFormatter(handler_format)
    logger.addHandler(handler)
    log_it(structlog.wrap_logger(logger))
    return lines[0]


def run_worker(form: str, root: Path) -> list[str]:
    """Run a process that logs in every way; return the lines of its standard error."""
    run = subprocess.run(
        [sys.executable, "-c", WORKER, form], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert "zQ7" not in run.stderr
    return run.stderr.splitlines()


def test_every_line_of_a_process_is_json(root: Path) -> None:
    """Ours, libraries', warnings, records that cannot be formatted, exceptions of threads and of the process."""
    lines = [json.loads(line) for line in run_worker("json", root)]
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("scorer.stream.service", "info", "partitions assigned"),
        ("kafka.client", "warning", "no answer from https://h/p?<redacted>"),
        ("kafka.client", "error", "%s of %s (its arguments could not be written: RuntimeError)"),
        ("kafka.client", "error", "a log record could not be written"),
        ("kafka.client", "error", "too few arguments %s %s (its arguments could not be written: TypeError)"),
        ("py.warnings", "warning", "<string>:22: UserWarning: old: password=<redacted>"),
        ("scorer.stream.service", "warning", "the engine does not answer"),
        ("scorer.stream.service", "error", "a reload failed"),
        ("scorer.uncaught", "critical", "uncaught exception"),
        ("scorer.uncaught", "critical", "uncaught exception"),
    ]
    assert lines[0]["partitions"] == [1, 2]
    assert (lines[0]["trace_id"], lines[0]["span_id"]) == ("a" * 32, "b" * 16)
    assert lines[6] == lines[6] | {"tries": 0}
    assert "ValueError: https://h/p?<redacted>" in lines[7]["exception"]
    assert (lines[8]["thread"], lines[9]["thread"]) == ("poller", "main")
    assert "IndexError" in lines[8]["exception"]


def test_plain_lines_are_readable(root: Path) -> None:
    """The same process for a terminal: time, level, sentence, fields; tracebacks are indented."""
    lines = run_worker("plain", root)
    assert lines[0][8:].startswith(" info    partitions assigned  logger=")
    assert "partitions=[1, 2]" in lines[0]
    assert any(line.startswith("    ") and "IndexError" in line for line in lines)


def test_the_line_s_own_fields_cannot_be_forged() -> None:
    """A field with the name of one of the line's own does not replace it."""
    line = json.loads(write(JsonLines(), lambda log: log.info("x", level="none", time="never", logger="other", y=1)))
    assert (line["level"], line["logger"], line["y"]) == ("info", "scorer.here", 1)


def test_a_terminal_is_safe_from_what_a_log_holds() -> None:
    """Control characters, line ends and characters that turn the reading direction are escaped."""
    hostile = "\x1b[2J\r\n\u202e\x9b"
    line = write(PlainLines(), lambda log: log.info(hostile, **{hostile: hostile}))
    assert line.isascii()
    assert line.isprintable()


def test_no_span_no_ids() -> None:
    """Outside of a span, and inside one without a trace, no ids are written; after a span they are gone."""
    assert "trace_id" not in json.loads(write(JsonLines(), lambda log: log.info("x")))
    with span("a", None):
        assert "trace_id" not in json.loads(write(JsonLines(), lambda log: log.info("x")))
    with span("a", TraceContext("1" * 32, "2" * 16)):
        pass
    assert "trace_id" not in json.loads(write(JsonLines(), lambda log: log.info("x")))


def record(event: object, level: int = logging.WARNING, error: type[Exception] | None = None) -> logging.LogRecord:
    """Return a log record."""
    exc_info = (error, error(), None) if error else None
    return logging.makeLogRecord({"name": "n", "levelno": level, "msg": event, "exc_info": exc_info})


def test_a_repeated_warning_is_counted_not_written() -> None:
    """Written once, then once in ten seconds with the number suppressed, whatever its numbers and fields are."""
    now = 0.0
    throttle = Throttle(lambda: now)
    written = []
    for tick in range(2000):
        now = tick / 100
        line = record(f"no answer after {tick} tries at 0x{tick:x}")
        if throttle.filter(line):
            written.append((now, getattr(line, "repeated", None)))
    assert written == [(0, 0), (REPEAT_S, 999)]


@pytest.mark.parametrize("other", [record("b"), record("a", logging.ERROR), record("a", error=ValueError), record(3)])
def test_another_warning_is_not_a_repetition(other: logging.LogRecord) -> None:
    """Another sentence, another level, another exception, or an object."""
    throttle = Throttle(lambda: 0)
    assert throttle.filter(record("a"))
    assert throttle.filter(other)
    assert not throttle.filter(record("a"))


def test_information_is_never_suppressed() -> None:
    """Each information is written."""
    throttle = Throttle(lambda: 0)
    assert all(throttle.filter(record("assigned", logging.INFO)) for _ in range(3))


def test_remembering_events_takes_bounded_memory() -> None:
    """Ever new events use bounded memory, and the latest are still recognised."""
    throttle = Throttle(lambda: 0)
    for number in range(3 * MAX_EVENTS):
        assert throttle.filter(record("x" * number))
    assert len(throttle._seen) == MAX_EVENTS  # noqa: SLF001 - the bound is not visible from outside
    assert not throttle.filter(record("x" * (3 * MAX_EVENTS - 1)))
