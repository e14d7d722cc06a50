"""The progress of a task on standard error: a bar on a terminal, otherwise one JSON line per interval."""

import json
from time import monotonic
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.console import Console

from scorer.commands.terminal import Terminal
from scorer.observe.printable import print_json, printable

INTERVAL_S = 10.0


class Progress:
    """Counts the completed items of a task; open while the task runs.

    A JSON line has `done`, `total`, the speed `<unit>_per_s`, the remaining seconds `left_s` and the latest facts.

    Attributes:
        total: the number of items; None if unknown.
        done: the number of completed items.
        facts: those of the latest `advance`.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str = "images",
        console: Console | None = None,
        *,
        summary: bool = False,
    ) -> None:
        """Count items called `unit`; with `summary`, a line with the seconds remains on the screen at the end."""
        self.total, self.done = total, 0
        self.facts: dict[str, float | str] = {}
        self._label, self._unit, self._summary = label, unit, summary
        self._console = console or Terminal(stderr=True)
        self._skipped = 0
        self._started = self._reported = monotonic()
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[tally]}", markup=False),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(printable(label), total=total, tally=unit)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the task began, above 0."""
        return max(monotonic() - self._started, 1e-9)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._summary and error is None:
            sentence = f"{self._label}: {self.done} {self._unit} in {self.elapsed_s:.0f} s"
            self._console.out(printable(sentence), highlight=False)

    def begin(self, total: int | None, done: int = 0) -> None:
        """Set the total and the number that an earlier run completed, which does not count for the speed."""
        self.total, self.done, self._skipped = total, done, done
        self._started = monotonic()
        self._bar.reset(self._task, total=total, completed=done)

    def advance(self, count: int = 1, /, **facts: float | str) -> None:
        """Count `count` more items; the facts, short names with their values, are shown beside."""
        self.done += count
        self.facts = facts
        if self._console.is_terminal:
            tally = ", ".join([self._unit, *(_phrase(name, value) for name, value in facts.items())])
            self._bar.update(self._task, completed=self.done, tally=printable(tally))
        elif monotonic() - self._reported >= INTERVAL_S:
            self._reported = monotonic()
            print_json(json.dumps(self._describe()), self._console.file)

    def _describe(self) -> dict[str, float | str | None]:
        rate = (self.done - self._skipped) / self.elapsed_s
        left_s = round((self.total - self.done) / rate) if self.total is not None and rate else None
        speed = {f"{self._unit}_per_s": float(f"{rate:.4g}")}
        return {"done": self.done, "total": self.total} | speed | {"left_s": left_s} | self.facts


def _phrase(name: str, value: float | str) -> str:
    name = name.replace("_per_s", "/s").replace("_", " ")
    return f"{name} {value}" if isinstance(value, str) else f"{value:,} {name}"
