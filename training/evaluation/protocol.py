"""How good the scores are: AUC with intervals, confound controls, false alarms, engine drift.

Generated faces are positive and low likelihoods are suspicious, as in the paper. No figure from here chooses
anything in training.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scorer.decide import p_values
from training.data.shards import FaceSet

Scores = NDArray[np.float64]
EQUAL_SIDE, EQUAL_QUALITY = 112, 75
BOOTSTRAPS = 1000


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Drift:
    """How an engine's log-likelihoods differ from the FP32 engine's, under one mixture, on the same crops.

    Attributes:
        median_nats: of the absolute differences; `p95_nats` and `max_nats` likewise.
        spread_nats: standard deviation of the FP32 log-likelihoods, to compare with.
        rank_correlation: Spearman's.
        flips_at_5_percent: share of faces on the other side of the 5 % threshold, each engine
            calibrated on its own scores of the calibration photographs.
    """

    median_nats: float
    p95_nats: float
    max_nats: float
    spread_nats: float
    rank_correlation: float
    flips_at_5_percent: float


def auc(photographs: Scores, others: Scores) -> float:
    """Return the chance that one of `others` is less likely than one of `photographs`; ties count half."""
    ordered = np.sort(photographs)
    at_most = (np.searchsorted(ordered, others, "left") + np.searchsorted(ordered, others, "right")) / 2
    return float(1 - at_most.mean() / len(photographs))


def bootstrap_auc(photographs: Scores, groups: NDArray[np.str_], others: Scores, seed: int = 2024) -> Rate:
    """Return the AUC with a percentile bootstrap; faces of one photograph (`groups`) are drawn together."""
    rng = np.random.default_rng(seed)
    names, index = np.unique(groups, return_inverse=True)
    members = [photographs[index == group] for group in range(len(names))]
    draws = [
        auc(
            np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]),
            rng.choice(others, len(others)),
        )
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Rate(auc(photographs, others), float(low), float(high), len(others))


def control_sources(photographs: Scores, sources: NDArray[np.str_]) -> dict[str, Rate]:
    """Return the AUC of each source of photographs against all others: what a mere change of source scores."""
    return {
        str(source): Rate(
            auc(photographs[sources != source], photographs[sources == source]),
            np.nan,
            np.nan,
            int((sources == source).sum()),
        )
        for source in np.unique(sources)
    }


def false_alarms(photographs: Scores, calibration: Scores, rate: float) -> Rate:
    """Return the share of photographs whose p-value is at most `rate`, with Wilson's interval."""
    alarms, n, z = int((p_values(photographs, calibration) <= rate).sum()), len(photographs), 1.96
    share = alarms / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Rate(share, max(0.0, float(centre - half)), float(centre + half), n)


def equalise_format(crops_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the crops after one path for all: 112 px, JPEG of quality 75, back to size.

    What survives this cannot be a matter of file format, sharpness beyond 112 px or compression history.
    """
    side = crops_NHWC.shape[1]
    equal = []
    for crop in crops_NHWC:
        buffer = io.BytesIO()
        small = Image.fromarray(crop).resize((EQUAL_SIDE, EQUAL_SIDE), Image.Resampling.BILINEAR)
        small.save(buffer, "JPEG", quality=EQUAL_QUALITY)
        equal.append(np.asarray(Image.open(buffer).resize((side, side), Image.Resampling.BILINEAR)))
    return np.stack(equal)


def rank(values: Scores) -> NDArray[np.intp]:
    """Return each value's place in ascending order."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def measure_drift(reference: Scores, engine: Scores, reference_calibration: Scores, calibration: Scores) -> Drift:
    """Compare an engine's log-likelihoods of the same faces with the FP32 engine's."""
    difference = np.abs(engine - reference)
    flips = (p_values(engine, calibration) <= 0.05) != (p_values(reference, reference_calibration) <= 0.05)  # noqa: PLR2004 - the 5 % threshold
    return Drift(
        median_nats=float(np.median(difference)),
        p95_nats=float(np.quantile(difference, 0.95)),
        max_nats=float(difference.max()),
        spread_nats=float(reference.std()),
        rank_correlation=float(np.corrcoef(rank(reference), rank(engine))[0, 1]),
        flips_at_5_percent=float(flips.mean()),
    )


def evaluate_scores(
    score: Callable[[NDArray[np.uint8]], Scores],
    test: FaceSet,
    held_out: FaceSet,
    generated_faces: Mapping[str, NDArray[np.uint8]],
) -> dict[str, object]:
    """Return the whole report as JSON-able fields.

    Args:
        score: log-likelihoods in nats of crops, through the deployed engine.
        test: photographs that nothing was fitted, chosen or calibrated on.
        held_out: the calibration's photographs.
        generated_faces: crops by generator.
    """
    calibration = np.sort(score(np.asarray(held_out.crops)))
    raw = score(np.asarray(test.crops))
    report: dict[str, object] = {
        "test_faces": len(test),
        "false_alarms": {f"{rate:g}": asdict(false_alarms(raw, calibration, rate)) for rate in (0.05, 0.01)},
        "false_alarms_by_source": {
            str(source): asdict(false_alarms(raw[test.sources == source], calibration, 0.05))
            for source in np.unique(test.sources)
        },
    }
    for name, prepare in (("raw", lambda crops: crops), ("format_equalised", equalise_format)):
        photographs = raw if name == "raw" else score(prepare(np.asarray(test.crops)))
        others = {generator: score(prepare(crops)) for generator, crops in generated_faces.items()}
        report[name] = {
            "auc": {
                generator: asdict(bootstrap_auc(photographs, test.photos, values))
                for generator, values in others.items()
            },
            "source_control": {
                source: rate.value for source, rate in control_sources(photographs, test.sources).items()
            },
            "flagged_at_5_percent": {
                generator: float((p_values(values, calibration) <= 0.05).mean())  # noqa: PLR2004 - the 5 % threshold
                for generator, values in others.items()
            },
        }
    return report
