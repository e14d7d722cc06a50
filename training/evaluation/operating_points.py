"""The honest mode: what a platform would see, with generated faces positive and thresholds from held-out photographs.

Thresholds come from the role `calibrate` exactly as a deployed bundle sets them (by p-value), false alarms are counted
on the role `test`, whose sources nothing was fitted, chosen or calibrated on. Every AUC stands beside its control: what
one source of photographs reaches against the others, though nothing in it is generated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.decide import p_values
from training.evaluation.measures import LogLikelihoods, Rate, bootstrap_auc, equal_error_rate, wilson

RATES = (0.05, 0.01)
NOISE_AUC = 0.75  # below it, an AUC lies in the range that a mere change of photograph source reaches


@dataclass(frozen=True, slots=True)
class FlaggedCount:
    """What a promised false-alarm rate does; a figure is None where the calibration is too small to promise it.

    Attributes:
        photographs: share of the test photographs' faces flagged; the interval counts photographs, not faces.
        by_source: the same for each source.
        generated: share flagged by generator; the interval takes the threshold as given.
    """

    photographs: Rate | None
    by_source: dict[str, Rate | None]
    generated: dict[str, Rate | None]


@dataclass(frozen=True, slots=True)
class Separation:
    """How far generated faces lie from photographs, at every threshold.

    Attributes:
        auc: by generator; the interval draws whole photographs.
        equal_error_rate: by generator.
        source_control: AUC of each source of photographs against all others, as if it were a generator.
    """

    auc: dict[str, Rate]
    equal_error_rate: dict[str, float]
    source_control: dict[str, Rate]


@dataclass(frozen=True, slots=True)
class GeneratorVerdict:
    """Whether a generator's AUC, raw and format-equalised, clears the control by its whole interval."""

    clears: bool
    sentence: str


def name_photographs(sources: NDArray[np.str_], photos: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return a name for each face's photograph that no other source uses."""
    return np.char.add(np.char.add(sources, "/"), photos)


def count_flagged(
    values: LogLikelihoods, calibration: LogLikelihoods, rate: float, groups: NDArray[np.str_] | None = None
) -> Rate | None:
    """Return the share with a p-value of at most `rate`, or None where `calibration` cannot resolve that rate.

    Args:
        values: log-likelihoods.
        calibration: those of held-out photographs, ascending.
        rate: promised false-alarm rate.
        groups: each face's photograph; faces of one share camera and compression and count as one case.
    """
    if rate < 1 / (len(calibration) + 1):
        return None
    hits = int((p_values(values, calibration) <= rate).sum())
    return wilson(hits, len(values), None if groups is None else len(np.unique(groups)))


def flag_faces(
    photographs: LogLikelihoods,
    places: tuple[NDArray[np.str_], NDArray[np.str_]],
    generated: Mapping[str, LogLikelihoods],
    calibration: LogLikelihoods,
    rate: float,
) -> FlaggedCount:
    """Return who is flagged at a promised `rate`; `places` are the photographs' sources and names."""
    sources, photos = places
    groups = name_photographs(sources, photos)
    return FlaggedCount(
        photographs=count_flagged(photographs, calibration, rate, groups),
        by_source={
            str(source): count_flagged(photographs[sources == source], calibration, rate, groups[sources == source])
            for source in np.unique(sources)
        },
        generated={name: count_flagged(values, calibration, rate) for name, values in generated.items()},
    )


def control_sources(
    photographs: LogLikelihoods, sources: NDArray[np.str_], groups: NDArray[np.str_]
) -> dict[str, Rate]:
    """Return the AUC of each source of photographs against all others; empty where there is one source only."""
    names = np.unique(sources)
    return {
        str(source): bootstrap_auc(
            photographs[sources != source], groups[sources != source], photographs[sources == source]
        )
        for source in names
        if len(names) > 1
    }


def separate(
    photographs: LogLikelihoods,
    places: tuple[NDArray[np.str_], NDArray[np.str_]],
    generated: Mapping[str, LogLikelihoods],
) -> Separation:
    """Return AUCs, equal error rates and controls; `places` are the photographs' sources and names."""
    sources, photos = places
    groups = name_photographs(sources, photos)
    return Separation(
        auc={name: bootstrap_auc(photographs, groups, values) for name, values in generated.items()},
        equal_error_rate={name: equal_error_rate(photographs, values) for name, values in generated.items()},
        source_control=control_sources(photographs, sources, groups),
    )


def judge_generators(raw: Separation, equalised: Separation) -> dict[str, GeneratorVerdict]:
    """Return a plain verdict on each generator.

    An AUC counts only above what a mere change of source reaches, and above `NOISE_AUC`, with its whole interval, both
    on the crops as they are and on crops that share one format.
    """
    controls = [rate.value for kind in (raw, equalised) for rate in kind.source_control.values()]
    bar = max([NOISE_AUC, *controls])
    told = (
        f"a source of real photographs reaches up to {max(controls):.2f} against the others"
        if controls
        else "the test photographs are of one source, so that nothing says what a mere change of source reaches"
    )
    verdicts = {}
    for name, plain in raw.auc.items():
        equal = equalised.auc[name]
        clears = bool(controls) and min(plain.low, equal.low) > bar
        verdicts[name] = GeneratorVerdict(
            clears,
            f"{name} {'clears' if clears else 'does not clear'} its control: "
            f"AUC {plain.value:.2f} ({plain.low:.2f} to {plain.high:.2f}), "
            f"format-equalised {equal.value:.2f} ({equal.low:.2f} to {equal.high:.2f}); {told}.",
        )
    return verdicts


def summarise(verdicts: Mapping[str, GeneratorVerdict], flagged: FlaggedCount, rate: float) -> str:
    """Return the whole evaluation in two sentences."""
    clear = [name for name, verdict in verdicts.items() if verdict.clears]
    if clear:
        first = f"{len(clear)} of {len(verdicts)} generators clear their control: {', '.join(clear)}."
    else:
        first = "As a detector this does not work: no generator's AUC clears its control."
    alarms, found = flagged.photographs, [row.value for row in flagged.generated.values() if row]
    if alarms is None:
        return f"{first} The calibration is too small to promise a false-alarm rate of {100 * rate:g} %."
    return (
        f"{first} At a promised false-alarm rate of {100 * rate:g} %, {100 * alarms.value:.1f} % of the photographs' "
        f"faces were flagged (95 % interval {100 * alarms.low:.1f} to {100 * alarms.high:.1f} %), and "
        f"{100 * min(found):.0f} to {100 * max(found):.0f} % of each generator's."
    )
