"""The log of a training: progress on stderr, `progress.jsonl`, and TensorBoard event files."""

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from scorer.commands.progress import Progress
from scorer.files import replace_file

LOG_FILE = "progress.jsonl"


def delete_later_lines(path: Path, done: int, unit: str = "epoch") -> None:
    """Delete the lines of epochs (or of another unit, such as steps) after `done`, which will be trained again."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)[unit] <= done]
    replace_file(path, "".join(f"{line}\n" for line in kept).encode())


@dataclass(slots=True)
class RunLog:
    """The open log of a training.

    Attributes:
        run: the run folder.
        title: of the progress bar.
        total: number of steps of the whole training.
        done: number of finished steps, including those of earlier processes.
        console: shows progress and warnings.
        quiet: whether nothing is written, because another process writes the log.
    """

    run: Path
    title: str
    total: int
    done: int
    console: Console
    quiet: bool = False
    _events: SummaryWriter | None = None
    _progress: Progress | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        if self.quiet:
            return self
        # Events after the resumed step come from an interrupted process and are invalid.
        events = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.done)
        self._events = self._open.enter_context(closing(events))
        self._progress = self._open.enter_context(Progress(self.title, self.total, "steps", self.console))
        self._progress.begin(self.total, self.done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _write(self, values: dict[str, float]) -> None:
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, self.done)

    def log_step(self, losses: dict[str, float], rates: list[float]) -> None:
        """Record the losses of one step, and the learning rate of each parameter group."""
        rated = {f"rate/{group}": rate for group, rate in enumerate(rates)}
        self._write({f"train/{name}": value for name, value in losses.items()} | rated)
        self.done += 1
        if self._progress is not None:
            self._progress.advance(1, loss=round(losses["loss"], 4))

    def log_epoch(self, facts: dict[str, float]) -> None:
        """Record the mean losses and held-out metrics of one epoch; the line is written when this returns."""
        self._write({f"epoch/{name}": value for name, value in facts.items()})
        with (self.run / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps(facts) + "\n")
        shown = {name: round(value, 3) for name, value in facts.items()}
        self.console.print(json.dumps(shown), soft_wrap=True)

    def print_warning(self, sentence: str) -> None:
        """Print a warning."""
        if not self.quiet:
            self.console.print(f"warning: {sentence}", style="yellow", soft_wrap=True)
