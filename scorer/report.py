"""What a person sees of a run: progress with remaining time, then a table."""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scorer.bundle import Bundle
from scorer.messages import Decision, ScoreResult

INTERVAL_S = 10.0
STYLES = {Decision.PASS: "blue", Decision.REVIEW: "yellow", Decision.FLAG: "bold red"}
MAX_ROWS = 200


class Progress:
    """Progress on standard error: a bar on a terminal, one JSON line per interval elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._counts: Counter[str] = Counter()
        self._started = self._reported = time.monotonic()
        console = Console(stderr=True)
        self._bar = (
            rich_progress.Progress(
                rich_progress.TextColumn("scoring"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[tally]}"),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("left"),
                rich_progress.TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )
        self._task = self._bar.add_task("scoring", total=total, tally="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, result: ScoreResult) -> None:
        """Count one more image."""
        self._counts[result.decision or result.status] += 1
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=1, tally=self._tally())
        elif time.monotonic() - self._reported >= INTERVAL_S:
            self._reported = time.monotonic()
            self._print_line()

    def _tally(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in sorted(self._counts.items()))

    def _print_line(self) -> None:
        done = self._counts.total()
        rate = done / (time.monotonic() - self._started)
        left_s = (self._total - done) / rate
        line = {"done": done, "total": self._total, "images_per_s": round(rate, 2), "left_s": round(left_s)}
        print(json.dumps(line | dict(self._counts)), file=sys.stderr, flush=True)  # noqa: T201 - progress for machines


class ResultTable:
    """The results of a run, a row per face; past `MAX_ROWS` only the summary grows."""

    def __init__(self) -> None:
        self._decisions: Counter[str] = Counter()
        self._rows: list[tuple[str, list[str | Text]]] = []

    def add(self, result: ScoreResult) -> None:
        """Add the rows of one image."""
        self._decisions[result.decision or result.status] += 1
        if len(self._rows) >= MAX_ROWS:
            return
        if not result.faces:
            verdict = Text(": ".join((result.status, *result.reason_codes)))
            self._rows.append((result.content_id, ["", "", "", "", verdict]))
        for face in result.faces:
            cells: list[str | Text] = [
                Text(face.face_id),
                f"{min(face.box[2:]):.0f} px",
                "" if face.log_likelihood is None else f"{face.log_likelihood:.1f}",
                "" if face.p_value is None else f"{face.p_value:.3f}",
                Text(": ".join((face.decision, *face.reason_codes)), style=STYLES[face.decision]),
            ]
            self._rows.append((result.content_id, cells))

    def show(self, bundle: Bundle) -> None:
        """Print the table, with paths below their common folder, and one line on what the numbers mean."""
        console = Console()
        folder = os.path.commonpath([Path(name).absolute().parent for name, _ in self._rows] or [Path.cwd()])
        table = Table(box=SIMPLE_HEAD, header_style="bold", title=Text(f"images in {folder}"), title_justify="left")
        table.add_column("image", overflow="fold")
        for heading in ("face", "side", "log-likelihood", "p-value"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("decision", overflow="fold")
        for name, cells in self._rows:
            table.add_row(Text(str(Path(name).absolute().relative_to(folder))), *cells)
        if len(self._rows) >= MAX_ROWS:
            console.print(f"The first {MAX_ROWS} rows; use --out or --json for all.")
        console.print(table)
        console.print(", ".join(f"{count} {name}" for name, count in sorted(self._decisions.items())), highlight=False)
        console.print(
            f"p-value: the share of {len(bundle.model.calibration)} held-out photographs at most this likely under "
            f"{bundle.manifest.bundle_id}. A flagged face is unlike the photographs this bundle knows, no more.",
            highlight=False,
        )
