"""`unlensed dlq`: list dead letters, and send the original records back.

The content of a record is never shown: only its partition, offset, size and error.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from scorer.commands.progress import Progress
from scorer.commands.terminal import Terminal
from scorer.errors import UsageError
from scorer.observe.printable import count_noun, print_json
from scorer.settings import Settings, load_settings

if TYPE_CHECKING:
    from scorer.stream.kafka.log import KafkaLog

dlq_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List dead letters, and send the original records back."
)

MAX_ROWS = 200
COLUMNS = {
    "died": 80,
    "code": 0,
    "tried": 100,
    "record": 0,
    "KiB": 100,
    "why": 0,
}  # the least terminal width for each column
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

CodeOption = Annotated[str | None, typer.Option(help="Only dead letters with this error code.")]
SinceOption = Annotated[str | None, typer.Option(help="Only dead letters since 30m, 24h, 7d or an ISO 8601 time.")]
InsecureOption = Annotated[bool, typer.Option("--insecure-dev", help="Accept a network without TLS.")]


@dlq_app.command("list")
def list_command(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output instead of a table.")] = False,
    code: CodeOption = None,
    since: SinceOption = None,
    insecure_dev: InsecureOption = False,
) -> None:
    """List which records have no result and why; key, value and headers stay hidden."""
    from scorer.stream.dead_letter_replay import DeadLetterFilter, list_dead_letters  # noqa: PLC0415 - the client is imported on demand

    settings = load_settings(insecure_dev=insecure_dev or None)
    choice = DeadLetterFilter(settings.stream.requests, code, parse_since(since, datetime.now(UTC)))
    codes: Counter[str] = Counter()
    terminal = Terminal()
    shown = [name for name, width in COLUMNS.items() if terminal.width >= width]
    table = Table(box=SIMPLE_HEAD)
    for name in shown:
        table.add_column(name, overflow="fold")
    with _open_log(settings) as log:
        for letter in list_dead_letters(log, choice):
            codes[letter.reason.code] += 1
            if as_json:
                print_json(json.dumps(letter.as_dict()))
            elif codes.total() <= MAX_ROWS:
                reason = letter.reason
                cells = {
                    "died": f"{letter.written_at:%Y-%m-%d %H:%M:%S}" if letter.written_at else "unknown",
                    "code": reason.code,
                    "tried": str(reason.attempts),
                    "record": f"{reason.topic_partition.topic}[{reason.topic_partition.partition}]@{reason.offset}",
                    "KiB": f"{letter.bytes / 1024:.1f}",
                    "why": reason.message,
                }
                table.add_row(*(cells[name] for name in shown))
    if not as_json:
        terminal.print(table)
        hidden = codes.total() - table.row_count
        more = f", {hidden} more than are shown; --json lists all" if hidden else ""
        terminal.say(f"{_describe(codes)} in {settings.stream.dead_letters_topic}{more}")


@dlq_app.command()
def replay(  # noqa: PLR0913 - one parameter per flag
    *,
    code: CodeOption = None,
    since: SinceOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Send at most this many.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also send records that were replayed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be sent.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send without asking.")] = False,
    insecure_dev: InsecureOption = False,
) -> None:
    """Send original records back to the topic of requests, each once; the dead letters stay in their topic."""
    from scorer.stream.dead_letter_replay import DeadLetterFilter, Replay  # noqa: PLC0415
    from scorer.stream.kafka.connect import open_sink  # noqa: PLC0415 - the client is imported on demand

    settings = load_settings(insecure_dev=insecure_dev or None)
    choice = DeadLetterFilter(settings.stream.requests, code, parse_since(since, datetime.now(UTC)))
    terminal = Terminal(stderr=True)
    with _open_log(settings) as log:
        replay_run = Replay(log, choice, again=again, limit=limit)
        plan = replay_run.plan()
        for reason, count in plan.refused.items():
            terminal.say(f"{count} are not sent: {reason}")
        terminal.say(f"to send to {choice.requests}: {_describe(plan.sent)}")
        if dry_run or not plan.sent:
            return
        if not yes:
            if not sys.stdin.isatty():
                message = "standard input is not a terminal: add --yes to send these, or --dry-run to only list them"
                raise UsageError(message)
            typer.confirm("Send them?", abort=True, err=True)
        sink = open_sink(settings.kafka, insecure_dev=settings.insecure_dev)
        try:
            with Progress("sending", plan.sent.total(), "letters", terminal) as progress:
                done = replay_run.run(sink, progress.advance)
        finally:
            sink.close(timeout_s=5)
        terminal.say(f"sent to {choice.requests}: {_describe(done.sent)}")


def parse_since(text: str | None, now: datetime) -> datetime | None:
    """Return the time of `30m`, `24h` or `7d` before `now`, or of an ISO 8601 text (UTC if it has no zone).

    Raises:
        UsageError: `text` is neither.
    """
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return now - timedelta(**{UNITS[match[2]]: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"--since {text} is neither a duration such as 30m, 24h or 7d nor an ISO 8601 time"
        raise UsageError(message) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _describe(codes: Counter[str]) -> str:
    total = count_noun(codes.total(), "letter")
    return f"{total} ({', '.join(f'{count} {code}' for code, count in codes.most_common())})" if codes else total


@contextmanager
def _open_log(settings: Settings) -> Iterator["KafkaLog"]:
    from scorer.stream.kafka.connect import open_dead_letters  # noqa: PLC0415 - the client is imported on demand

    log = open_dead_letters(settings.kafka, settings.stream, insecure_dev=settings.insecure_dev)
    try:
        yield log
    finally:
        log.close()
