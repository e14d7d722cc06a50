"""The figures of an evaluation that a bundle contains, which the scorer shows with its decisions."""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from scorer.bundle.manifest import Evaluation, EvaluationSample, FlaggedShare, GeneratedEvaluationSample
from scorer.observe.printable import printable

NOTE = (
    "Generated faces in their original format, and photographs of sources on which nothing was trained, fitted, chosen "
    "or calibrated; p-values by stratum, as served. Intervals are 95 %; faces of one source or photograph are not "
    "independent in them. One format: the face reduced to 150 px and compressed as JPEG 90, for both classes."
)
THROUGH_OPENVINO = " Measured with the OpenVINO engine of the same network, with its own mixture and calibration."


def state_evaluation(report: Mapping[str, Any], *, through_openvino: bool = False) -> Evaluation | None:
    """Return the figures of an `evaluation.json` for a bundle, or None if it measured no rate.

    Args:
        report: the content of `evaluation.json`.
        through_openvino: whether the bundle's engine is another one than the OpenVINO engine that was measured.
    """
    operating = report["operating_points"]
    rows = {float(rate): row for rate, row in operating["flagged"].items() if row["photographs"]}
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
            printable(name): GeneratedEvaluationSample(
                faces=auc["count"],
                flagged=_count((rate, row["generated"][name]) for rate, row in rows.items()),
                auc=auc["value"],
                auc_one_format=operating["format_equalised"]["auc"][name]["value"],
            )
            for name, auc in operating["raw"]["auc"].items()
        },
    )


def _count(rows: Iterable[tuple[float, Mapping[str, Any]]]) -> tuple[FlaggedShare, ...]:
    return tuple(
        FlaggedShare(rate=rate, faces=round(row["value"] * row["count"]), low=row["low"], high=row["high"])
        for rate, row in sorted(rows, key=itemgetter(0), reverse=True)
    )
