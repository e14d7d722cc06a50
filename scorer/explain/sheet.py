"""The sheet of an explanation: one page without a script that works offline and prints."""

from dataclasses import dataclass
from pathlib import Path

from scorer.archive.report.chart import Bar
from scorer.archive.report.page import render_page
from scorer.explain.messages import GRID, CalibrationPosition, ExplainedResult, OcclusionMap
from scorer.explain.sentences import CHANGES, state_copy, state_tags

WIDTH, HEIGHT, TOP, MARGIN = 352, 110, 44, 8  # of the histogram, in SVG units
SQUARE = 32  # of the occlusion map, in SVG units
_OPACITY = 0.75


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled line in the histogram: the face, or a threshold."""

    kind: str
    x: float
    text_y: int
    text: str
    text_x: float
    anchor: str


@dataclass(frozen=True, slots=True)
class Square:
    """A square of the occlusion map, in SVG units."""

    x: int
    y: int
    kind: str
    opacity: float
    change: float


def draw_bars(position: CalibrationPosition) -> list[Bar]:
    """Return the histogram of the photographs that the face is compared with."""
    highest, edges = max(position.counts), position.edges_nats
    return [
        Bar(
            x=(left := _scale(position, low)),
            y=round(TOP + HEIGHT * (1 - count / highest), 1),
            width=round(max(_scale(position, high) - left - 1, 0.5), 1),
            height=round(HEIGHT * count / highest, 1),
            text=f"{low:.0f} to {high:.0f} nats: {count:,} faces",
        )
        for low, high, count in zip(edges, edges[1:], position.counts, strict=False)
        if count
    ]


def draw_marks(position: CalibrationPosition, nats: float) -> list[Mark]:
    """Return the lines of the face and of the thresholds; one beyond the photographs stands at their end."""
    thresholds = [("flag", position.flag_nats), ("review", position.review_nats)]
    lines = [(kind, value, f"{kind} below") for kind, value in thresholds]
    lines.append(("face", nats, "this face at"))
    marks = []
    for row, (kind, value, name) in enumerate(lines):
        if value is None or (kind == "review" and value == position.flag_nats):
            continue
        x = _scale(position, value)
        beyond = not position.edges_nats[0] <= value <= position.edges_nats[-1]
        text = f"{name} {value:.0f}{', beyond all photographs' if beyond else ''}"
        near = x < WIDTH / 2
        marks.append(Mark(kind, x, 10 + 14 * row, text, x + 4 if near else x - 4, "start" if near else "end"))
    return marks


def _scale(position: CalibrationPosition, nats: float) -> float:
    low, high = position.edges_nats[0], position.edges_nats[-1]
    share = min(1.0, max(0.0, (nats - low) / (high - low)))
    return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)


def draw_squares(occlusion: OcclusionMap) -> list[Square]:
    """Return the squares of the occlusion map; the strongest colour is the largest change."""
    largest = max(abs(change) for row in occlusion.changes_nats for change in row) or 1.0
    return [
        Square(
            x=column * SQUARE,
            y=row * SQUARE,
            kind="rise" if change > 0 else "fall",
            opacity=round(_OPACITY * abs(change) / largest, 2),
            change=change,
        )
        for row, changes in enumerate(occlusion.changes_nats)
        for column, change in enumerate(changes)
    ]


def render_sheet(explained: ExplainedResult) -> str:
    """Return the sheet as HTML; names in it are escaped."""
    explanation, nats = explained.explanation, explained.face.log_likelihood or 0.0
    position = explanation.calibration
    return render_page(
        "sheet.html",
        Path(__file__).parent,
        explanation=explanation,
        face=explained.face,
        result=explained,
        position=position,
        sentences=explanation.sentences,
        bars=draw_bars(position),
        marks=draw_marks(position, nats),
        squares=draw_squares(explanation.occlusion),
        side=GRID * SQUARE,
        square=SQUARE,
        size=(WIDTH, TOP + HEIGHT),
        tags=list(state_tags(explained)),
        copies=[(CHANGES[copy.change], state_copy(copy)) for copy in explanation.copies],
    )
