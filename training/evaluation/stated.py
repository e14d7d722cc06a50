"""What a bundle states of its evaluation: the figures that the scorer shows beside decisions."""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from scorer.bundle.manifest import Evaluation, EvaluationSample, FlaggedShare, GeneratedEvaluationSample

NOTE = (
    "Generated faces as they came, and photographs of sources that nothing was trained, fitted, chosen or calibrated "
    "on. Intervals are 95 %; faces of one photograph count as one case."
)
THROUGH_OPENVINO = " Through the same network's OpenVINO engine, with a mixture and a calibration of its own."


def state_evaluation(report: Mapping[str, Any], *, through_openvino: bool = False) -> Evaluation | None:
    """Return the figures of an `evaluation.json` that a bundle states, or None where it measured no rate.

    Args:
        report: the content of `evaluation.json`.
        through_openvino: whether the bundle's own engine is another one.
    """
    honest = report["honest"]
    rows = {float(rate): row for rate, row in honest["flagged"].items() if row["photographs"]}
    if not rows:
        return None
    return Evaluation(
        measured_on=report["run"]["created_at"][:10],
        note=NOTE + (THROUGH_OPENVINO if through_openvino else ""),
        photographs=EvaluationSample(
            faces=report["run"]["test_faces"],
            flagged=_count((rate, row["photographs"]) for rate, row in rows.items()),
        ),
        generated={
            show_name(name): GeneratedEvaluationSample(
                faces=auc["count"],
                flagged=_count((rate, row["generated"][name]) for rate, row in rows.items()),
                auc=auc["value"],
                auc_one_format=honest["format_equalised"]["auc"][name]["value"],
            )
            for name, auc in honest["raw"]["auc"].items()
        },
    )


def show_name(name: str) -> str:
    """Return a generator's name with what does not print as an escape: it is the name of somebody's folder."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _count(rows: Iterable[tuple[float, Mapping[str, Any]]]) -> tuple[FlaggedShare, ...]:
    return tuple(
        FlaggedShare(rate=rate, faces=round(row["value"] * row["count"]), low=row["low"], high=row["high"])
        for rate, row in sorted(rows, key=itemgetter(0), reverse=True)
    )
