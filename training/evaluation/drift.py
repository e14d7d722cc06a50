"""Compare engines of different precision: log-likelihoods against the FP32 engine's, and speed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.decide import p_values
from training.data.shards import Images
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.measures import LogLikelihoods

SPEED_FACES = 128


@dataclass(frozen=True, slots=True)
class Drift:
    """Differences between an engine's log-likelihoods and the FP32 engine's, under one mixture, on the same crops.

    Attributes:
        median_nats, p95_nats, max_nats: median, 95th percentile and maximum of the absolute differences.
        std_nats: standard deviation of the FP32 log-likelihoods, for comparison.
        rank_correlation: Spearman's.
        flips_at_5_percent: share of faces with another decision at 5 %; each engine is calibrated on its own
            log-likelihoods of the calibration photographs.
    """

    median_nats: float
    p95_nats: float
    max_nats: float
    std_nats: float
    rank_correlation: float
    flips_at_5_percent: float


def rank_values(values: LogLikelihoods) -> NDArray[np.intp]:
    """Return the rank of each value in ascending order."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def measure_drift(
    reference: LogLikelihoods,
    engine: LogLikelihoods,
    reference_calibration: LogLikelihoods,
    calibration: LogLikelihoods,
) -> Drift:
    """Compare an engine's log-likelihoods of the same faces with the FP32 engine's."""
    difference = np.abs(engine - reference)
    flips = (p_values(engine, calibration) <= 0.05) != (p_values(reference, reference_calibration) <= 0.05)  # noqa: PLR2004 - the 5 % threshold
    return Drift(
        median_nats=float(np.median(difference)),
        p95_nats=float(np.quantile(difference, 0.95)),
        max_nats=float(difference.max()),
        std_nats=float(reference.std()),
        rank_correlation=float(np.corrcoef(rank_values(reference), rank_values(engine))[0, 1]),
        flips_at_5_percent=float(flips.mean()),
    )


def measure_speed(scorer: FaceScorer, crops: Images) -> float:
    """Return the engine's faces per second, after a first call."""
    batch = np.asarray(crops[:SPEED_FACES])
    scorer.embed(batch[:8])
    started = time.perf_counter()
    scorer.embed(batch)
    return round(len(batch) / (time.perf_counter() - started), 1)


def compare_engines(
    engines: Mapping[str, Path],
    load: Callable[[Path], FaceScorer],
    test: Images,
    held_out: Images,
    advance: Callable[[], None],
) -> dict[str, dict[str, object]]:
    """Return drift, size and speed of engines.

    Args:
        engines: graph by precision, including "fp32".
        load: compiles a graph.
        test: crops to compare on.
        held_out: crops of the calibration.
        advance: called after each engine.
    """
    scored, speeds = {}, {}
    for precision, path in engines.items():
        scorer = load(path)
        scored[precision] = scorer.log_likelihoods(test), np.sort(scorer.log_likelihoods(held_out))
        speeds[precision] = measure_speed(scorer, test)
        advance()
    reference, reference_calibration = scored["fp32"]
    return {
        precision: {
            "drift": asdict(measure_drift(reference, values, reference_calibration, calibration)),
            "bytes": sum(file.stat().st_size for file in engines[precision].parent.iterdir()),
            "faces_per_second": speeds[precision],
        }
        for precision, (values, calibration) in scored.items()
    }
