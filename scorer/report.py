"""What a person sees of a run: a table."""

import os
from collections import Counter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scorer.bundle import Bundle
from scorer.messages import Decision, ScoreResult

STYLES = {Decision.PASS: "blue", Decision.REVIEW: "yellow", Decision.FLAG: "bold red"}
MAX_ROWS = 200


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
                f"{face.quality['face_px']:.0f} px",
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
