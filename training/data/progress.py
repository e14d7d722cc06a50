"""Progress of `prepare` on standard error: a bar on a terminal, one JSON line per interval elsewhere."""

import json
import time
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.console import Console

INTERVAL_S = 10.0


class PrepareProgress:
    """Counts photographs and faces; what an earlier run did counts as done, but not for the speed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.total = self.done = self.faces = 0
        self._skipped = 0
        self._started = self._reported = time.monotonic()
        self._bar = (
            rich_progress.Progress(
                rich_progress.TextColumn("preparing"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("photographs, {task.fields[faces]} faces, {task.fields[rate]:.1f} faces/s"),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("left"),
                rich_progress.TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )
        self._task = self._bar.add_task("preparing", total=None, faces=0, rate=0.0) if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, total: int, done: int) -> None:
        """Say how many photographs there are, and how many an earlier run has done."""
        self.total, self.done, self._skipped = total, done, done
        self._started = self._reported = time.monotonic()
        if self._bar and self._task is not None:
            self._bar.reset(self._task, total=total, completed=done)

    def advance(self, photos: int, faces: int) -> None:
        """Count more photographs and faces."""
        self.done += photos
        self.faces += faces
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self.faces / elapsed
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self.done, faces=self.faces, rate=rate)
        elif time.monotonic() - self._reported >= INTERVAL_S:
            self._reported = time.monotonic()
            left_s = (self.total - self.done) * elapsed / max(self.done - self._skipped, 1)
            line = {"done": self.done, "total": self.total, "faces": self.faces}
            self._console.file.write(json.dumps(line | {"faces_per_s": round(rate, 2), "left_s": round(left_s)}) + "\n")
            self._console.file.flush()
