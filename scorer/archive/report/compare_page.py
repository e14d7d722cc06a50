"""A comparison as a page that works offline, and as a table for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from scorer.archive.report.compare import Comparison, FlipGroup
from scorer.archive.report.gallery import ReadAgain, cut_pictures
from scorer.archive.report.page import render_page, show_count, show_interval, show_percent, show_plain

_SHOWN_GROUPS = 10
_COLUMNS = {"faces": 60, "decision differs": 0, "A flags": 80, "B flags": 80}  # the width from which each is shown


def state_difference(found: Comparison) -> str:
    """Return in a sentence or two how much changed."""
    if not found.faces:
        return "The two runs have images in common, but no face at the same place: was the face detector exchanged?"
    return (
        f"Of {show_count(found.faces)} faces that both runs found, the decision on {show_count(found.flips.count)} "
        f"differs: {show_percent(found.flips.value)} ({show_interval(found.flips)}). A flags "
        f"{show_percent(found.a.flagged.value)} of them, B {show_percent(found.b.flagged.value)}."
    )


def render_comparison(found: Comparison, read_again: ReadAgain) -> str:
    """Return the page; `read_again` brings the bytes of the images in the gallery."""
    pictures = cut_pictures([each.face for each in found.disagreements], read_again)
    return render_page(
        "compare.html",
        found=found,
        verdict=state_difference(found),
        pictures=list(zip(pictures, found.disagreements, strict=True)),
    )


def tabulate(found: Comparison, width: int) -> list[Table]:
    """Return the tables of a comparison for so many columns: decisions, then the groups with the most faces."""
    matrix = Table("in A, then in B", box=SIMPLE_HEAD, header_style="bold")
    for decision in found.matrix:
        matrix.add_column(decision, justify="right")
    for decision, row in found.matrix.items():
        matrix.add_row(decision, *map(show_count, row.values()))
    groups = Table(box=SIMPLE_HEAD, header_style="bold")
    groups.add_column("group", overflow="fold", min_width=12)
    shown = [number for number, needed in enumerate(_COLUMNS.values()) if width >= needed]
    for number in shown:
        groups.add_column(list(_COLUMNS)[number], justify="right", no_wrap=True)
    for kind, members in (("images", found.by_column), ("source", found.by_source), ("camera", found.by_camera)):
        for group in members[:_SHOWN_GROUPS]:
            shares = _list_shares(group)
            groups.add_row(Text(_name_group(kind, group)), *(shares[number] for number in shown))
    return [matrix, groups]


def _name_group(kind: str, group: FlipGroup) -> str:
    return f"{kind}: " + (
        f"{group.folded} others, each rare" if group.folded else show_plain(group.name) or "not stated"
    )


def _list_shares(group: FlipGroup) -> list[str]:
    return [
        show_count(group.flips.of),
        f"{show_percent(group.flips.value)} ({show_interval(group.flips)})",
        show_percent(group.flagged_a.value),
        show_percent(group.flagged_b.value),
    ]
