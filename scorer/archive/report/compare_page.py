"""A comparison as a page that works offline, and as tables for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from scorer.archive.report.compare import FlipGroup, RunComparison
from scorer.archive.report.gallery import FaceImageReader, cut_pictures
from scorer.archive.report.page import render_page, show_count, show_interval, show_percent, show_plain
from scorer.meaning import explain_flag, explain_pass
from scorer.messages import PolicyFacts

_SHOWN_GROUPS = 10
_COLUMNS = {"faces": 60, "decision differs": 0, "A flags": 80, "B flags": 80}  # the terminal width that each needs


def state_difference(comparison: RunComparison) -> str:
    """Return in one or two sentences how much changed."""
    if not comparison.faces:
        return "The two runs have images in common, but no face at the same position: was the face detector replaced?"
    policies = "" if comparison.a.policy == comparison.b.policy else " The two runs used different policies."
    return (
        f"Of {show_count(comparison.faces)} faces that both runs found, the decision differs on "
        f"{show_count(comparison.flips.count)}: {show_percent(comparison.flips.value)} "
        f"({show_interval(comparison.flips)}). A flags {show_percent(comparison.a.flagged.value)} of them, B "
        f"{show_percent(comparison.b.flagged.value)}.{policies}"
    )


def explain_sides(comparison: RunComparison) -> list[str]:
    """Return what the decisions of each run mean; only once if it is the same for both."""
    a, b = (
        [
            explain_pass(side.evaluation, side.policy.review_false_alarm_rate),
            explain_flag(side.evaluation, side.policy.flag_false_alarm_rate),
        ]
        for side in (comparison.a, comparison.b)
    )
    return a if a == b else [*(f"A, {line}" for line in a), *(f"B, {line}" for line in b)]


def render_comparison(comparison: RunComparison, read_face_image: FaceImageReader) -> str:
    """Return the page; `read_face_image` returns the bytes of the images in the gallery."""
    pictures = cut_pictures([each.face for each in comparison.disagreements], read_face_image)
    return render_page(
        "compare.html",
        comparison=comparison,
        verdict=state_difference(comparison),
        meanings=explain_sides(comparison),
        policies=_list_policies(comparison),
        pictures=list(zip(pictures, comparison.disagreements, strict=True)),
    )


def tabulate(comparison: RunComparison, width: int) -> list[Table]:
    """Return a comparison's tables for a terminal of `width` columns: bundles and policies, decisions, groups."""
    runs = Table("", "A", "B", box=SIMPLE_HEAD, header_style="bold")
    for name, *sides in (("bundle", comparison.a.bundle_id, comparison.b.bundle_id), *_list_policies(comparison)):
        runs.add_row(name, *(Text(show_plain(side)) for side in sides))
    matrix = Table("in A, then in B", box=SIMPLE_HEAD, header_style="bold")
    for decision in comparison.matrix:
        matrix.add_column(decision, justify="right")
    for decision, row in comparison.matrix.items():
        matrix.add_row(decision, *map(show_count, row.values()))
    groups = Table(box=SIMPLE_HEAD, header_style="bold")
    groups.add_column("group", overflow="fold", min_width=12)
    shown = [number for number, needed in enumerate(_COLUMNS.values()) if width >= needed]
    for number in shown:
        groups.add_column(list(_COLUMNS)[number], justify="right", no_wrap=True)
    for kind, members in (
        ("images", comparison.by_column),
        ("source", comparison.by_source),
        ("camera", comparison.by_camera),
    ):
        for group in members[:_SHOWN_GROUPS]:
            shares = _list_shares(group)
            groups.add_row(Text(_name_group(kind, group)), *(shares[number] for number in shown))
    return [runs, matrix, groups]


def _list_policies(comparison: RunComparison) -> list[tuple[str, str, str]]:
    """Return both policies as rows: name, value in A, value in B."""
    a, b = (_describe_policy(side.policy) for side in (comparison.a, comparison.b))
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
        f"{group.folded} rare others together" if group.folded else show_plain(group.name) or "not stated"
    )


def _list_shares(group: FlipGroup) -> list[str]:
    return [
        show_count(group.flips.of),
        f"{show_percent(group.flips.value)} ({show_interval(group.flips)})",
        show_percent(group.flagged_a.value),
        show_percent(group.flagged_b.value),
    ]
