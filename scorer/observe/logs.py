"""Writes the service's log to standard error, redacted: JSON for machines, or readable lines for people.

    log = get_logger(__name__)
    log.warning("the engine does not answer", url=url, tries=3)

The logger is structlog's. The event is a constant sentence; values that vary are fields. Records of libraries are
formatted in the same way, from warnings upwards. A repeated warning or error is written once, then once every
`REPEAT_S` seconds with a count, so that an outage does not fill a disk.

Formatting and throttling work on the standard library's records. structlog's own `ProcessorFormatter` lets an
exception of a record's arguments escape; here such a record is written without its arguments.
"""

import json as jsons
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict

from scorer.observe.printable import printable, printable_json
from scorer.observe.redact import redact_field, redact_text
from scorer.observe.trace_context import current_trace

REPEAT_S = 10.0
OWN_PACKAGES = ("scorer", "ingest")  # logged from INFO upwards
MAX_EVENTS = 1_000  # different events that are remembered to recognise repetitions
MAX_TRACEBACK_CHARACTERS = 8_000

_VARYING = re.compile(r"0x[0-9a-f]+|\d+")


def get_logger(name: str) -> BoundLogger:
    """Return the log of a module; pass `__name__`."""
    log: BoundLogger = structlog.stdlib.get_logger(name)
    return log


def _to_record(_logger: object, _method: str, fields: EventDict) -> tuple[tuple[str], dict[str, object]]:
    """Put the fields on the log record, so that filters and formatters read our records and libraries' the same way."""
    return (fields.pop("event"),), {"exc_info": fields.pop("exc_info", None), "extra": {"fields": fields}}


structlog.configure(
    processors=[structlog.stdlib.filter_by_level, _to_record],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=BoundLogger,
    cache_logger_on_first_use=True,
)


def configure_logs(*, json: bool) -> None:
    """Send every log record, warning and uncaught exception of this process to standard error, redacted.

    Args:
        json: one JSON object a line; otherwise lines for a person.
    """
    handler = _Stderr()
    handler.setFormatter(JsonLines() if json else PlainLines())
    handler.addFilter(Throttle())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OWN_PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda hook: _log_uncaught(
        hook.exc_type, hook.exc_value, hook.exc_traceback, thread=hook.thread.name if hook.thread else "?"
    )
    sys.unraisablehook = lambda hook: _log_uncaught(hook.exc_type, hook.exc_value, hook.exc_traceback)


class JsonLines(logging.Formatter):
    """One JSON object a line, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable_json(jsons.dumps(_facts(record)))


class PlainLines(logging.Formatter):
    """Time, level, event and fields on a line, then the traceback; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = _facts(record)
        clock = str(facts.pop("time"))[11:19]
        level, event = str(facts.pop("level")), jsons.dumps(facts.pop("event"))[1:-1]
        exception = facts.pop("exception", None)
        fields = " ".join(f"{jsons.dumps(name)[1:-1]}={jsons.dumps(value)}" for name, value in facts.items())
        line = f"{clock} {level:<7} {event}  {fields}"
        if exception is None:
            return printable(line)
        return "\n".join(
            [printable(line), *(f"    {printable(jsons.dumps(part)[1:-1])}" for part in str(exception).splitlines())]
        )


class Throttle(logging.Filter):
    """Passes a repeated warning or error once every `REPEAT_S` seconds, with the number suppressed; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record; the same event with other fields or numbers is a repetition."""
        if record.levelno < logging.WARNING:
            return True
        kind = record.exc_info[0] if record.exc_info else None
        event = _VARYING.sub("0", record.msg) if isinstance(record.msg, str) else type(record.msg)
        key = (record.name, record.levelno, event, kind)
        with self._lock:
            now = self._clock()
            written, suppressed = self._seen.get(key, (-REPEAT_S, 0))
            if now - written < REPEAT_S:
                self._seen[key] = (written, suppressed + 1)
                return False
            if len(self._seen) >= MAX_EVENTS and key not in self._seen:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = (now, 0)
        record.repeated = suppressed
        return True


class _Stderr(logging.StreamHandler[Any]):
    """Standard error; of a record that cannot be written, only the logger's name is shown."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        # The base class prints the record's arguments, which may hold secrets.
        line = jsons.dumps({"level": "error", "logger": record.name, "event": "a log record could not be written"})
        with suppress(OSError, ValueError):  # standard error is closed
            self.stream.write(line + "\n")


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """Return the line's fields in order; a field of the caller replaces none of the line's own."""
    try:
        event = record.getMessage()
    except Exception as error:  # noqa: BLE001 - an argument's __str__ may raise anything
        event = f"{record.msg} (its arguments could not be written: {type(error).__name__})"
    facts: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": redact_text(event).rstrip(),
    }
    fields: Mapping[str, object] = getattr(record, "fields", {})
    facts |= {name: redact_field(name, value) for name, value in fields.items() if name not in facts}
    if trace := current_trace():
        facts |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
    if repeated := getattr(record, "repeated", 0):
        facts["repeated"] = repeated
    if record.exc_info and record.exc_info[0]:
        lines = "".join(traceback.format_exception(*record.exc_info))
        facts["exception"] = redact_text(lines, MAX_TRACEBACK_CHARACTERS)
    return facts


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, at: TracebackType | None, thread: str = "main"
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    get_logger("scorer.uncaught").critical("uncaught exception", exc_info=(kind, error or kind(), at), thread=thread)
