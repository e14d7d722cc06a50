"""The geometry of a report's chart, in SVG units; the template writes the SVG.

An SVG is shown at its own size or a little larger, so that its text stays legible. There is one for wide screens and
one for phones; the style sheet shows one of them.
"""

from dataclasses import dataclass
from typing import Literal

from scorer.archive.report.figures import Histogram
from scorer.archive.report.page import show_count

Kind = Literal["wide", "narrow"]
WIDTHS: dict[Kind, int] = {"wide": 720, "narrow": 352}
TICKS: dict[Kind, int] = {"wide": 8, "narrow": 4}
MARGIN, TOP, PANEL, GAP = 10, 24, 130, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram, in SVG units."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One histogram of the chart."""

    kind: Literal["main", "apart"]
    name: str
    top: int
    bottom: int
    faces: int
    highest: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled position on the axis: a threshold, or a tick; `drop` shifts a label below another one.

    The label begins or ends at `text_x`, depending on `anchor`, on the side with more space.
    """

    kind: str
    x: float
    drop: int
    text: str
    text_x: float
    anchor: Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Chart:
    """The chart of the log-likelihoods."""

    kind: Kind
    panels: tuple[Panel, ...]
    lines: tuple[Line, ...]
    ticks: tuple[Line, ...]
    width: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """The SVG's height, with space for the ticks and the axis' label below the last panel."""
        return self.panels[-1].bottom + 40


def draw_chart(histogram: Histogram, kind: Kind) -> Chart:
    """Return the bars, thresholds and ticks of a histogram for wide or narrow screens."""
    edges, width = histogram.edges_nats, WIDTHS[kind]
    left, right = MARGIN, width - MARGIN
    scale = (right - left) / (edges[-1] - edges[0])

    def scale_x(nats: float) -> float:
        return round(left + scale * (nats - edges[0]), 1)

    def line(name: str, nats: float, drop: int, text: str) -> Line:
        x = scale_x(nats)
        left_half = x < width / 2
        return Line(name, x, drop, text, x + 4 if left_half else x - 4, "start" if left_half else "end")

    def panel(column: Literal["main", "apart"], name: str, counts: tuple[int, ...], top: int) -> Panel:
        highest = max(counts)
        bars = tuple(
            Bar(
                x=scale_x(low),
                y=round(top + PANEL * (1 - count / highest), 1),
                width=round(max(scale * (high - low) - 1, 0.5), 1),
                height=round(PANEL * count / highest, 1),
                text=f"{low:g} to {high:g} nats: {show_count(count)} faces",
            )
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
            if count
        )
        return Panel(column, name, top, top + PANEL, sum(counts), highest, bars)

    thresholds = (("flag", histogram.flag_nats), ("review", histogram.review_nats))
    return Chart(
        kind=kind,
        panels=(
            panel("main", "not resampled", histogram.main, TOP),
            panel("apart", "resampled", histogram.apart, TOP + PANEL + GAP),
        ),
        lines=tuple(
            line(name, nats, 12 + 16 * row, f"{name} at {nats:.0f} or less")
            for row, (name, nats) in enumerate(thresholds)
            if nats is not None
        ),
        ticks=tuple(
            Line("tick", scale_x(nats), 0, f"{nats:g}", scale_x(nats), "middle")
            for nats in edges[1 : -1 : max(1, len(edges) // TICKS[kind])]
        ),
        width=width,
        left=left,
        right=right,
    )
