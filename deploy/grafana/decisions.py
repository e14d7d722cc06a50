"""The dashboard of decisions: shares of decisions, and p-values beside the rates that the calibration promises."""

from deploy.grafana.panels import Panel
from deploy.grafana.stream import MINE, OURS, RATE, rate

SHOWN = (0.01, 0.05, 0.1)
ANSWERS = rate("unlensed_records_answered_total")
FACES = rate("unlensed_faces_scored_total")


def share_at_most(bound: float) -> str:
    """Return the share of faces whose p-value is at most `bound`, a bucket of the histogram."""
    few = rate("unlensed_p_value_bucket", f'le="{bound}"')
    return f"{few} / {rate('unlensed_p_value_count')}"


def share_of_answers(status: str) -> str:
    """Return the share of the answers whose status matches a regular expression."""
    some = rate("unlensed_records_answered_total", f'status=~"{status}"')
    return f"{some} / {ANSWERS}"


def by_bundle(labels: str = "") -> str:
    """Return faces a second by stage and bundle, of all stages; the chosen stage is ignored."""
    faces = f'rate(unlensed_faces_scored_total{{job=~"$job"{labels}}}{RATE})'
    info = 'unlensed_bundle_info{job=~"$job"}'
    return (
        f"sum by (unlensed_stage, mode, bundle_id) ({faces} * on (job, instance) group_left (mode, bundle_id) {info})"
    )


FLAGGED = by_bundle(', decision="flag"')
DECIDED = rate("unlensed_faces_scored_total", by="decision")
AT_MOST = f'sum by (le) (increase(unlensed_p_value_bucket{{{MINE}, le!="+Inf"}}[$__range]))'
ALL = f"sum(increase(unlensed_p_value_count{OURS}[$__range]))"

TITLE = "unlensed: decisions"
DESCRIPTION = (
    "p-values of photographs like the calibration's are uniform: a share p of them is at most p. A larger share means "
    "other traffic, other preprocessing, or more faces that are unlike photographs; it proves none of these. `pass` "
    "does not mean that a face is a photograph: `unlensed doctor` states how many generated faces passed."
)
ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Faces a second", "Scored, in acknowledged results.", "short", ((FACES, ""),), "stat", 4),
        *(
            Panel(
                f"p at most {bound:.0%}",
                f"Expected of photographs like the calibration's: {bound:.0%}.",
                "percentunit",
                ((share_at_most(bound), ""),),
                "stat",
                4,
                limit=3 * bound,
            )
            for bound in SHOWN
        ),
        Panel(
            "Images without a face",
            "Share of the answers.",
            "percentunit",
            ((share_of_answers("no_face"), ""),),
            "stat",
            4,
        ),
        Panel(
            "Images that cannot be scored",
            "Share of the answers with status unsupported or failed.",
            "percentunit",
            ((share_of_answers("unsupported|failed"), ""),),
            "stat",
            4,
        ),
    ),
    "Decisions": (
        Panel(
            "Shares of decisions",
            "Under the current policies. With the default policy 1 % flag and 4 % review are expected of photographs.",
            "percentunit",
            ((f"{DECIDED} / on () group_left () {FACES}", "{{decision}}"),),
            width=12,
            stacked=True,
        ),
        Panel(
            "Flagged, by stage and bundle",
            "All stages side by side. A different share shows another bundle or calibration, not a better or "
            "worse one. Before a canary is promoted, look at faces that it flags and the live bundle does not.",
            "percentunit",
            ((f"{FLAGGED} / {by_bundle()}", "{{unlensed_stage}} {{mode}} {{bundle_id}}"),),
            width=12,
        ),
    ),
    "p-values against the calibration": (
        Panel(
            "Shares of small p-values",
            "Each line should lie on its expected value.",
            "percentunit",
            (
                *((share_at_most(bound), f"p at most {bound}") for bound in SHOWN),
                *((f"vector({bound})", f"expected: {bound}") for bound in SHOWN),
            ),
        ),
        Panel(
            "p at most 5 %, by stage and bundle",
            "Over an hour, all stages side by side. One bundle far from 5 %: its calibration does not fit this "
            "traffic. All bundles: the traffic differs from the photographs of their calibrations.",
            "percentunit",
            (
                ('unlensed:p_value:share1h{job=~"$job", le="0.05"}', "{{unlensed_stage}} {{bundle_id}}"),
                ("vector(0.05)", "expected"),
            ),
        ),
        Panel(
            "The whole distribution",
            "Share of faces whose p-value is at most the bound; the bound itself is expected. More at the low end: "
            "more faces that are unlike photographs. All bars moved: other preprocessing.",
            "percentunit",
            ((f"sort({AT_MOST} / on () group_left () {ALL})", "p at most {{le}}"),),
            "bargauge",
        ),
    ),
    "What is running": (
        Panel(
            "Bundles",
            "More than one digest among the live workers: a rollout is in progress, or stuck.",
            "short",
            ((f"count by (unlensed_stage, mode, delivery, bundle_id, digest) (unlensed_bundle_info{OURS})", ""),),
            "table",
            16,
        ),
        Panel(
            "Mixture",
            "What computes it, and where its features come from.",
            "short",
            ((f"count by (mixture, features) (unlensed_engine_info{OURS})", ""),),
            "table",
        ),
    ),
}
