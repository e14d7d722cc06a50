"""What a training tells while it runs: progress on stderr, `progress.jsonl`, and TensorBoard's event files."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "progress.jsonl"
REPORT_EVERY_S = 30.0


def forget_after(path: Path, epoch: int) -> None:
    """Drop the lines of epochs after `epoch`, which are about to be trained again."""
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["epoch"] <= epoch]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line in kept))
    partial.replace(path)


@dataclass(slots=True)
class RunLog:
    """Open for the time of a training.

    Attributes:
        run: the run folder.
        title: what the progress bar says.
        total: steps of the whole training.
        done: steps that an earlier process did.
        console: where people read.
        silent: whether another process tells it all.
    """

    run: Path
    title: str
    total: int
    done: int
    console: Console
    silent: bool = False
    _started: float = field(default_factory=time.monotonic)
    _reported: float = field(default_factory=time.monotonic)
    _first: int = 0
    _events: SummaryWriter | None = None
    _bar: Progress | None = None

    def __enter__(self) -> Self:
        self._first = self.done
        if self.silent:
            return self
        # Events after the step at which this process takes over were another process's, and are void.
        self._events = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.done)
        if self.console.is_terminal:
            columns = (*Progress.get_default_columns()[:3], TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._bar.add_task(self.title, total=self.total, completed=self.done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()

    def _write(self, values: dict[str, float]) -> None:
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, self.done)

    def log_step(self, losses: dict[str, float], rates: list[float]) -> None:
        """Record one step: its losses, and the learning rate of each group."""
        rated = {f"rate/{group}": rate for group, rate in enumerate(rates)}
        self._write({f"train/{name}": value for name, value in losses.items()} | rated)
        self.done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done)
        elif not self.silent and now - self._reported > REPORT_EVERY_S:
            self._reported = now
            remaining = (now - self._started) / (self.done - self._first) * (self.total - self.done)
            facts = {"step": self.done, "steps": self.total, "loss": losses["loss"], "remaining_s": round(remaining)}
            self.console.print(json.dumps(facts), soft_wrap=True, highlight=False)

    def log_epoch(self, facts: dict[str, float]) -> None:
        """Record one epoch's means and held-out figures; the line is on the disk when this returns."""
        self._write({f"epoch/{name}": value for name, value in facts.items()})
        with (self.run / LOG_FILE).open("a") as log:
            log.write(json.dumps(facts) + "\n")
        shown = {name: round(value, 3) for name, value in facts.items()}
        self.console.print(json.dumps(shown), soft_wrap=True, highlight=False)

    def caution(self, sentence: str) -> None:
        """Say something that a person should know now."""
        if not self.silent:
            self.console.print(f"[yellow]warning:[/yellow] {sentence}", soft_wrap=True, highlight=False)
