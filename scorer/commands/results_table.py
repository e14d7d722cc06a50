"""The output of a run for a person: a table, and one line that counts everything."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ingest.reasons import Reason
from scorer.bundle.bundle import Bundle
from scorer.commands.inputs import Skipped, describe_counts
from scorer.commands.terminal import Terminal
from scorer.decide import Policy
from scorer.meaning import explain_decisions
from scorer.messages import Decision, ScoreResult, Status

STYLES = {Decision.PASS: "blue", Decision.REVIEW: "yellow", Decision.FLAG: "bold red"}
MAX_ROWS = 200

# The columns between name and decision, and the least terminal width for each.
COLUMNS = {"face": 60, "side": 80, "log-likelihood": 100, "p-value": 60}


class ResultTable:
    """The results of a run, one row per face; after `MAX_ROWS` rows only the summary counts."""

    def __init__(self) -> None:
        self._decisions: Counter[str] = Counter()
        self._rows: list[tuple[str, dict[str, str], Text]] = []
        self._details: list[tuple[str, str]] = []

    def add(self, result: ScoreResult) -> None:
        """Add the rows of one image."""
        self._decisions[result.decision or result.status] += 1
        if len(self._rows) >= MAX_ROWS:
            return
        if not result.faces:
            self._rows.append((result.content_id, {}, Text(": ".join((result.status, *result.reason_codes)))))
        if result.detail and result.status is not Status.NO_FACE:
            self._details.append((result.content_id, result.detail))
        for face in result.faces:
            cells = {
                "face": face.face_id,
                "side": f"{face.quality['face_px']:.0f} px",
                "log-likelihood": "" if face.log_likelihood is None else f"{face.log_likelihood:.1f}",
                "p-value": "" if face.p_value is None else f"{face.p_value:.3f}",
            }
            decision = Text(": ".join((face.decision, *face.reason_codes)), style=STYLES[face.decision])
            if Reason.STATED_GENERATED in result.reason_codes and result.decision:
                stated = f"; image: {result.decision}: {Reason.STATED_GENERATED}"
                decision.append(stated, style=STYLES[result.decision])
            self._rows.append((result.content_id, cells, decision))

    def show(self, bundle: Bundle, policy: Policy, terminal: Terminal | None = None) -> None:
        """Print the table, with paths relative to their common folder, and what numbers and decisions mean.

        A narrow terminal shows fewer columns, so that name and decision stay readable.
        """
        terminal = terminal or Terminal()
        folder = os.path.commonpath([Path(name).absolute().parent for name, _, _ in self._rows] or [Path.cwd()])
        shown = [name for name, width in COLUMNS.items() if terminal.width >= width]
        table = Table(box=SIMPLE_HEAD, header_style="bold", title=f"images in {folder}", title_justify="left")
        table.add_column("image", overflow="fold", min_width=12)
        for heading in shown:
            table.add_column(heading, justify="right", overflow="fold" if heading == "face" else "ellipsis")
        table.add_column("decision", overflow="fold", min_width=12)
        for name, cells, decision in self._rows:
            table.add_row(_below(name, folder), *(cells.get(heading, "") for heading in shown), decision)
        if len(self._rows) >= MAX_ROWS:
            terminal.print(f"The first {MAX_ROWS} rows; use --out or --json for all.")
        terminal.print(table)
        for name, detail in self._details:
            terminal.say(f"{_below(name, folder)}: {detail}")
        terminal.print(", ".join(f"{count} {name}" for name, count in sorted(self._decisions.items())))
        calibration = bundle.model.calibration
        held_out = f"{len(calibration.pooled)} held-out faces"
        if calibration.strata:
            held_out = f"held-out faces of its stratum, or of all {held_out},"
        terminal.print(f"p-value: the share of {held_out} at most this likely under {bundle.manifest.bundle_id}.")
        for sentence in explain_decisions(bundle.manifest.evaluation, policy):
            terminal.print(sentence)


def _below(name: str, folder: str) -> str:
    return str(Path(name).absolute().relative_to(folder))


class RunSummary:
    """Counts the results of a run for its last line."""

    def __init__(self) -> None:
        self.images = 0
        self.failed: Counter[str] = Counter()
        self._decisions: Counter[str] = Counter()

    def add(self, result: ScoreResult) -> None:
        """Count one image."""
        self.images += 1
        if result.failed:
            self.failed[result.reason_codes[0] if result.reason_codes else result.status] += 1
        else:
            self._decisions[result.decision or result.status] += 1

    def facts(self) -> Mapping[str, int]:
        """Return the counts for a progress bar."""
        return dict(sorted(self._decisions.items())) | ({"failed": self.failed.total()} if self.failed else {})

    def describe(self, skipped: Counter[Skipped], written: Sequence[str]) -> str:
        """Return the line.

        Args:
            skipped: the number of skipped files by reason.
            written: one text for each output.
        """
        count = self._decisions
        scored = sum(count[decision] for decision in Decision)
        decided = f"{count[Decision.FLAG]} flagged, {count[Decision.REVIEW]} to review, {count[Decision.PASS]} passed"
        parts = [
            f"{scored} of {self.images} images scored ({decided})",
            f"{count[Status.NO_FACE]} without a face",
            _with_reasons(self.failed, "failed"),
            _with_reasons(skipped, "skipped"),
        ]
        return f"{', '.join(parts)}. " + (f"Written: {', '.join(written)}." if written else "Nothing was written.")


def _with_reasons(counts: Counter[Any], name: str) -> str:
    return f"{counts.total()} {name}" + (f" ({describe_counts(counts)})" if counts.total() else "")
