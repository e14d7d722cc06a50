"""The geometry of a report's figures, in a drawing's units; the template writes the SVG."""

from dataclasses import dataclass
from typing import Literal

from scorer.archive.report.figures import Histogram
from scorer.archive.report.page import show_count

WIDTH, LEFT, RIGHT, TOP, PANEL, GAP = 720, 10, 710, 24, 130, 34
TICKS = 8


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram in the drawing's units."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One histogram of the figure."""

    kind: Literal["main", "apart"]
    name: str
    top: int
    bottom: int
    faces: int
    highest: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled place on the axis: a threshold, or a tick; `drop` keeps two labels apart."""

    kind: str
    x: float
    drop: int
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The figure of the log-likelihoods."""

    panels: tuple[Panel, ...]
    lines: tuple[Line, ...]
    ticks: tuple[Line, ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = RIGHT

    @property
    def height(self) -> int:
        """Room for the ticks and the axis' name below the last panel."""
        return self.panels[-1].bottom + 40


def draw_chart(histogram: Histogram) -> Chart:
    """Return the bars, thresholds and ticks of a histogram."""
    edges = histogram.edges_nats
    scale = (RIGHT - LEFT) / (edges[-1] - edges[0])

    def place(nats: float) -> float:
        return round(LEFT + scale * (nats - edges[0]), 1)

    def panel(kind: Literal["main", "apart"], name: str, counts: tuple[int, ...], top: int) -> Panel:
        highest = max(counts)
        bars = tuple(
            Bar(
                x=place(low),
                y=round(top + PANEL * (1 - count / highest), 1),
                width=round(max(scale * (high - low) - 1, 0.5), 1),
                height=round(PANEL * count / highest, 1),
                text=f"{low:g} to {high:g} nats: {show_count(count)} faces",
            )
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
            if count
        )
        return Panel(kind, name, top, top + PANEL, sum(counts), highest, bars)

    thresholds = (("flag", histogram.flag_nats), ("review", histogram.review_nats))
    return Chart(
        panels=(
            panel("main", "as they were", histogram.main, TOP),
            panel("apart", "resampled", histogram.apart, TOP + PANEL + GAP),
        ),
        lines=tuple(
            Line(kind, place(nats), 12 + 16 * row, f"{kind} at {nats:.0f} or less")
            for row, (kind, nats) in enumerate(thresholds)
            if nats is not None
        ),
        ticks=tuple(Line("tick", place(nats), 0, f"{nats:g}") for nats in edges[1 : -1 : max(1, len(edges) // TICKS)]),
    )
