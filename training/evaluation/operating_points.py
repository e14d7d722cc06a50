"""Metrics at the operating points of a deployment: generated faces are positive, thresholds come from held-out faces.

Thresholds come from the role `calibrate`, by p-value, exactly as in a deployed bundle. False alarms are counted on the
role `test`, on whose sources nothing was fitted, chosen or calibrated. Every AUC has a control: the AUC of one source
of photographs against the others, although none is generated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.decide import p_values
from training.evaluation.measures import LogLikelihoods, Rate, bootstrap_auc, equal_error_rate, wilson

RATES = (0.05, 0.01)
MIN_AUC = 0.75  # a lower AUC can result from a change of the photographs' source alone


@dataclass(frozen=True, slots=True)
class FlaggedCount:
    """The shares flagged at a target false-alarm rate; None if the calibration is too small for that rate.

    Attributes:
        photographs: share of the faces of test photographs; the interval counts photographs, not faces.
        by_source: the same for each source.
        generated: share by generator; the interval does not include the uncertainty of the threshold.
    """

    photographs: Rate | None
    by_source: dict[str, Rate | None]
    generated: dict[str, Rate | None]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well generated faces and photographs are separated, over all thresholds.

    Attributes:
        auc: by generator; the bootstrap interval resamples whole photographs.
        equal_error_rate: by generator.
        source_control: AUC of each source of photographs against all others, as if it were a generator.
    """

    auc: dict[str, Rate]
    equal_error_rate: dict[str, float]
    source_control: dict[str, Rate]


@dataclass(frozen=True, slots=True)
class GeneratorVerdict:
    """Whether the whole interval of a generator's AUC, raw and format-equalised, is above the control."""

    clears: bool
    sentence: str


def name_photographs(sources: NDArray[np.str_], photos: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the name of each face's photograph, unique over all sources."""
    return np.char.add(np.char.add(sources, "/"), photos)


def count_flagged(
    values: LogLikelihoods, calibration: LogLikelihoods, rate: float, groups: NDArray[np.str_] | None = None
) -> Rate | None:
    """Return the share with a p-value of at most `rate`, or None if `calibration` cannot resolve that rate.

    Args:
        values: log-likelihoods.
        calibration: log-likelihoods of held-out photographs, ascending.
        rate: target false-alarm rate.
        groups: the photograph of each face; faces of one photograph count as one case.
    """
    if rate < 1 / (len(calibration) + 1):
        return None
    hits = int((p_values(values, calibration) <= rate).sum())
    return wilson(hits, len(values), None if groups is None else len(np.unique(groups)))


def measure_flagged(
    photographs: LogLikelihoods,
    origins: tuple[NDArray[np.str_], NDArray[np.str_]],
    generated: Mapping[str, LogLikelihoods],
    calibration: LogLikelihoods,
    rate: float,
) -> FlaggedCount:
    """Return the shares flagged at a target `rate`; `origins` are the photographs' sources and names."""
    sources, photos = origins
    groups = name_photographs(sources, photos)
    return FlaggedCount(
        photographs=count_flagged(photographs, calibration, rate, groups),
        by_source={
            str(source): count_flagged(photographs[sources == source], calibration, rate, groups[sources == source])
            for source in np.unique(sources)
        },
        generated={name: count_flagged(values, calibration, rate) for name, values in generated.items()},
    )


def measure_source_control(
    photographs: LogLikelihoods, sources: NDArray[np.str_], groups: NDArray[np.str_]
) -> dict[str, Rate]:
    """Return the AUC of each source of photographs against all others; empty if there is a single source."""
    names = np.unique(sources)
    return {
        str(source): bootstrap_auc(
            photographs[sources != source], groups[sources != source], photographs[sources == source]
        )
        for source in names
        if len(names) > 1
    }


def measure_separation(
    photographs: LogLikelihoods,
    origins: tuple[NDArray[np.str_], NDArray[np.str_]],
    generated: Mapping[str, LogLikelihoods],
) -> Separation:
    """Return AUCs, equal error rates and controls; `origins` are the photographs' sources and names."""
    sources, photos = origins
    groups = name_photographs(sources, photos)
    return Separation(
        auc={name: bootstrap_auc(photographs, groups, values) for name, values in generated.items()},
        equal_error_rate={name: equal_error_rate(photographs, values) for name, values in generated.items()},
        source_control=measure_source_control(photographs, sources, groups),
    )


def judge_generators(raw: Separation, equalised: Separation) -> dict[str, GeneratorVerdict]:
    """Return a verdict on each generator.

    A generator clears its control if the whole interval of its AUC is above the AUCs of all sources of photographs and
    above `MIN_AUC`, both on the original crops and on crops of one format.
    """
    controls = [rate.value for kind in (raw, equalised) for rate in kind.source_control.values()]
    required = max([MIN_AUC, *controls])
    control = (
        f"a source of real photographs reaches up to {max(controls):.2f} against the others"
        if controls
        else "the test photographs have one source only, so the effect of a change of source is unknown"
    )
    verdicts = {}
    for name, plain in raw.auc.items():
        equal = equalised.auc[name]
        clears = bool(controls) and min(plain.low, equal.low) > required
        verdicts[name] = GeneratorVerdict(
            clears,
            f"{name} {'clears' if clears else 'does not clear'} its control: "
            f"AUC {plain.value:.2f} ({plain.low:.2f} to {plain.high:.2f}), "
            f"format-equalised {equal.value:.2f} ({equal.low:.2f} to {equal.high:.2f}); {control}.",
        )
    return verdicts


def summarise_evaluation(verdicts: Mapping[str, GeneratorVerdict], flagged: FlaggedCount, rate: float) -> str:
    """Return a summary of the evaluation in two sentences."""
    clear = [name for name, verdict in verdicts.items() if verdict.clears]
    if clear:
        first = f"{len(clear)} of {len(verdicts)} generators clear their control: {', '.join(clear)}."
    else:
        first = "As a detector this does not work: no generator's AUC clears its control."
    alarms, found = flagged.photographs, [row.value for row in flagged.generated.values() if row]
    if alarms is None:
        return f"{first} The calibration is too small for a false-alarm rate of {100 * rate:g} %."
    return (
        f"{first} At a target false-alarm rate of {100 * rate:g} %, {100 * alarms.value:.1f} % of the photographs' "
        f"faces were flagged (95 % interval {100 * alarms.low:.1f} to {100 * alarms.high:.1f} %), and "
        f"{100 * min(found):.0f} to {100 * max(found):.0f} % of each generator's."
    )
