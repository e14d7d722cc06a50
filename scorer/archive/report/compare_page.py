"""A comparison as a page that works offline, and as a table for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from scorer.archive.report.compare import Comparison, FlipGroup
from scorer.archive.report.gallery import ReadAgain, cut_pictures
from scorer.archive.report.page import render_page, show_count, show_interval, show_percent, show_plain
from scorer.meaning import explain_flag, explain_pass
from scorer.messages import PolicyFacts

_SHOWN_GROUPS = 10
_COLUMNS = {"faces": 60, "decision differs": 0, "A flags": 80, "B flags": 80}  # the width from which each is shown


def state_difference(found: Comparison) -> str:
    """Return in a sentence or two how much changed."""
    if not found.faces:
        return "The two runs have images in common, but no face at the same place: was the face detector exchanged?"
    policies = "" if found.a.policy == found.b.policy else " The two runs used different policies."
    return (
        f"Of {show_count(found.faces)} faces that both runs found, the decision on {show_count(found.flips.count)} "
        f"differs: {show_percent(found.flips.value)} ({show_interval(found.flips)}). A flags "
        f"{show_percent(found.a.flagged.value)} of them, B {show_percent(found.b.flagged.value)}.{policies}"
    )


def explain_sides(found: Comparison) -> list[str]:
    """Return what the decisions of each run mean; once where both runs mean the same."""
    a, b = (
        [
            explain_pass(side.evaluation, side.policy.review_false_alarm_rate),
            explain_flag(side.evaluation, side.policy.flag_false_alarm_rate),
        ]
        for side in (found.a, found.b)
    )
    return a if a == b else [*(f"A, {line}" for line in a), *(f"B, {line}" for line in b)]


def render_comparison(found: Comparison, read_again: ReadAgain) -> str:
    """Return the page; `read_again` brings the bytes of the images in the gallery."""
    pictures = cut_pictures([each.face for each in found.disagreements], read_again)
    return render_page(
        "compare.html",
        found=found,
        verdict=state_difference(found),
        meanings=explain_sides(found),
        policies=_list_policies(found),
        pictures=list(zip(pictures, found.disagreements, strict=True)),
    )


def tabulate(found: Comparison, width: int) -> list[Table]:
    """Return a comparison's tables for so many columns: bundles and policies, decisions, the groups with most faces."""
    runs = Table("", "A", "B", box=SIMPLE_HEAD, header_style="bold")
    for name, *sides in (("bundle", found.a.bundle_id, found.b.bundle_id), *_list_policies(found)):
        runs.add_row(name, *(Text(show_plain(side)) for side in sides))
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
    return [runs, matrix, groups]


def _list_policies(found: Comparison) -> list[tuple[str, str, str]]:
    """Return what both policies say, line by line: what it is, in A, in B."""
    a, b = (_describe_policy(side.policy) for side in (found.a, found.b))
    return [(name, a[name], b[name]) for name in a]


def _describe_policy(policy: PolicyFacts) -> dict[str, str]:
    return {
        "policy": f"{policy.policy_id}, version {policy.version}",
        "flags at p-values up to": f"{policy.flag_false_alarm_rate}",
        "reviews at p-values up to": f"{policy.review_false_alarm_rate}",
        "scores faces from": f"{policy.min_face_px:g} px",
    }


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
