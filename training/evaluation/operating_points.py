"""Metrics at the operating points of a deployment: generated faces are positive, p-values are those of a bundle.

A p-value is taken against the held-out photographs of a face's stratum, by the scorer's own rule, exactly as the bundle
will serve it. False alarms are counted on the role `test`, on whose sources nothing was fitted, chosen or calibrated.
Every AUC has a control: the AUC of one source of photographs against the others, although none is generated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.decide import Calibration, photographs_needed
from scorer.strata import Stratum
from training.evaluation.measures import LogLikelihoods, Rate, auc, bootstrap_aucs, count_share, equal_error_rate

RATES = (0.05, 0.01)
MIN_AUC = 0.75  # a lower AUC can result from a change of the photographs' source alone
MIN_SOURCES = 8  # with fewer, intervals resample photographs and not sources
MIN_CONTROL_FACES = 10  # of a source in the control; the AUC of fewer has a standard deviation above 0.09
Origins = tuple[NDArray[np.str_], NDArray[np.str_]]
"""The sources and the names of photographs, one of each for every face."""


@dataclass(frozen=True, slots=True)
class FlaggedCount:
    """The shares flagged at a target false-alarm rate; None if the calibration is too small for that rate.

    Attributes:
        photographs: share of the faces of test photographs; the interval counts sources, or photographs of few sources.
        by_source: the same for each source; the interval counts photographs.
        generated: share by generator; the interval does not include the uncertainty of the threshold.
        mean: unweighted mean of `generated`.
    """

    photographs: Rate | None
    by_source: dict[str, Rate | None]
    generated: dict[str, Rate | None]
    mean: float | None


@dataclass(frozen=True, slots=True)
class Control:
    """The 10, 50 and 90 % quantiles over `sources` sources of the AUC of one against the others.

    `high` is the next AUC that a source has, so that with up to ten sources it is the highest.
    """

    low: float
    median: float
    high: float
    sources: int


@dataclass(frozen=True, slots=True)
class Separation:
    """How well generated faces and photographs are separated by p-value, over all thresholds.

    Attributes:
        auc: by generator; the bootstrap interval resamples whole sources of photographs, or photographs of few sources.
        mean_auc: unweighted mean over generators; None without one.
        equal_error_rate: by generator.
        source_control: AUC of each source of photographs with at least `MIN_CONTROL_FACES` faces against all others, as
            if it were a generator.
        control: its quantiles; None without two sources.
    """

    auc: dict[str, Rate]
    mean_auc: Rate | None
    equal_error_rate: dict[str, float]
    source_control: dict[str, float]
    control: Control | None

    def find_lowest(self) -> str:
        """Return the generator with the lowest AUC."""
        return min(self.auc, key=lambda name: self.auc[name].value)


@dataclass(frozen=True, slots=True)
class GeneratorVerdict:
    """Whether the whole interval of a generator's AUC, raw and format-equalised, is above the control."""

    clears: bool
    sentence: str


def serve_p_values(values: LogLikelihoods, strata: Sequence[Stratum], calibration: Calibration) -> LogLikelihoods:
    """Return the p-values [N] that a bundle with `calibration` gives to faces with these log-likelihoods and strata."""
    return np.array([p_value for p_value, _ in calibration.p_values(values, strata)])


def find_finest_rate(calibration: Calibration) -> float:
    """Return the lowest p-value that a face of every stratum can have."""
    return 1 / (1 + min(map(len, (calibration.pooled, *calibration.strata.values()))))


def name_photographs(sources: NDArray[np.str_], photos: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the name of each face's photograph, unique over all sources."""
    return np.char.add(np.char.add(sources, "/"), photos)


def choose_clusters(origins: Origins) -> NDArray[np.str_]:
    """Return what an interval resamples: the source of each face, or its photograph if there are few sources."""
    sources, photos = origins
    return sources if len(np.unique(sources)) >= MIN_SOURCES else name_photographs(sources, photos)


def measure_flagged(
    photographs: LogLikelihoods,
    origins: Origins,
    generated: Mapping[str, LogLikelihoods],
    rate: float,
    finest: float,
) -> FlaggedCount:
    """Return the shares flagged at a target false-alarm rate.

    Args:
        photographs: p-values.
        origins: of the photographs.
        generated: p-values by generator.
        rate: the target.
        finest: the lowest p-value that every face can have.
    """
    sources, photos = origins
    names = name_photographs(sources, photos)
    if rate < finest:
        return FlaggedCount(None, dict.fromkeys(map(str, np.unique(sources))), dict.fromkeys(generated), None)
    hits = photographs <= rate
    # Sources without any alarm do not show how they differ.
    clusters = choose_clusters(origins) if hits.any() and not hits.all() else names
    found = {name: count_share(values <= rate) for name, values in generated.items()}
    return FlaggedCount(
        photographs=count_share(hits, clusters),
        by_source={
            str(source): count_share(hits[sources == source], names[sources == source]) for source in np.unique(sources)
        },
        generated=dict(found),
        mean=float(np.mean([share.value for share in found.values()])) if found else None,
    )


def measure_source_control(photographs: LogLikelihoods, sources: NDArray[np.str_]) -> dict[str, float]:
    """Return the AUC of each large source of photographs against all others; empty if there is a single source."""
    names, counts = np.unique(sources, return_counts=True)
    return {
        str(source): auc(photographs[sources != source], photographs[sources == source])
        for source, count in zip(names, counts, strict=True)
        if len(names) > 1 and count >= MIN_CONTROL_FACES
    }


def summarise_control(source_control: Mapping[str, float]) -> Control | None:
    """Return the quantiles of the control, or None if it is empty."""
    if not source_control:
        return None
    values = list(source_control.values())
    low, median = np.quantile(values, [0.1, 0.5])
    return Control(float(low), float(median), float(np.quantile(values, 0.9, method="higher")), len(values))


def measure_separation(
    photographs: LogLikelihoods, origins: Origins, generated: Mapping[str, LogLikelihoods]
) -> Separation:
    """Return AUCs, equal error rates and controls of p-values."""
    rates, mean = (
        bootstrap_aucs(photographs, choose_clusters(origins), generated) if generated else (dict[str, Rate](), None)
    )
    control = measure_source_control(photographs, origins[0])
    return Separation(
        auc=rates,
        mean_auc=mean,
        equal_error_rate={name: equal_error_rate(photographs, values) for name, values in generated.items()},
        source_control=control,
        control=summarise_control(control),
    )


def judge_generators(raw: Separation, equalised: Separation) -> dict[str, GeneratorVerdict]:
    """Return a verdict on each generator.

    A generator clears its control if the whole interval of its AUC is above the control's 90 % quantile and above
    `MIN_AUC`, both as stored and in one format.
    """
    controls = [each.control for each in (raw, equalised) if each.control]
    required = max([MIN_AUC, *(control.high for control in controls)])
    control = (
        f"a source of real photographs reaches {describe_control(controls[-1])} against the others"
        if controls
        else "no source of the test photographs can be compared with others, so the effect of a change of source is "
        "unknown"
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


def describe_control(control: Control) -> str:
    """Return the quantiles of a control in words."""
    return (
        f"{control.low:.2f} / {control.median:.2f} / {control.high:.2f} (10, 50 and 90 % of {control.sources} sources)"
    )


def summarise_evaluation(
    verdicts: Mapping[str, GeneratorVerdict], equalised: Separation, flagged: Mapping[float, FlaggedCount]
) -> str:
    """Return a summary: which generators clear their control, the AUCs in one format, and the shares flagged there."""
    clear = [name for name, verdict in verdicts.items() if verdict.clears]
    sentences = ["As a detector this does not work: no generator's AUC clears its control."]
    if clear:
        sentences = [f"{len(clear)} of {len(verdicts)} generators clear their control: {', '.join(clear)}."]
    if equalised.mean_auc:
        mean, lowest = equalised.mean_auc, equalised.find_lowest()
        sentences.append(
            f"Format-equalised, the mean AUC over {len(equalised.auc)} generators is {mean.value:.2f} ({mean.low:.2f} "
            f"to {mean.high:.2f}), and the lowest {equalised.auc[lowest].value:.2f} ({lowest})."
        )
    for rate, row in flagged.items():
        sentences.append(describe_flagged(row, rate))
    return " ".join(sentences)


def describe_flagged(flagged: FlaggedCount, rate: float) -> str:
    """Return a sentence with the shares flagged at a target rate."""
    alarms, found = flagged.photographs, [row.value for row in flagged.generated.values() if row]
    if alarms is None:
        return f"The calibration is too small for a false-alarm rate of {100 * rate:g} %."
    sentence = (
        f"At a target false-alarm rate of {100 * rate:g} %, {100 * alarms.value:.1f} % of the photographs' faces were "
        f"flagged (95 % interval {100 * alarms.low:.1f} to {100 * alarms.high:.1f} %)"
    )
    if flagged.mean is None:
        return f"{sentence}."
    return (
        f"{sentence}, and on average {100 * flagged.mean:.0f} % of a generator's ({100 * min(found):.0f} to "
        f"{100 * max(found):.0f} %)."
    )


def describe_support(photographs: Mapping[str, int], flagged: FlaggedCount, rate: float) -> str:
    """Return a sentence on whether a calibration resolves a rate, and whether the rate was kept.

    Args:
        photographs: of the calibration, by part: "all" and each stratum in use.
        flagged: at the rate.
        rate: the target.
    """
    needed = photographs_needed(rate)
    short = [f"{name} {count}" for name, count in photographs.items() if name != "all" and count < needed]
    sentence = f"{100 * rate:g} % is resolvable from {needed} photographs; the calibration has {photographs['all']}"
    if short:
        sentence += f", and these strata too few: {', '.join(short)}"
    alarms = flagged.photographs
    if alarms is None:
        return f"{sentence}. It was not measured."
    verdict = "Not kept" if alarms.low > rate else "Kept"
    return (
        f"{sentence}. {verdict}: {100 * alarms.value:.1f} % ({100 * alarms.low:.1f} to {100 * alarms.high:.1f} %) of "
        "the photographs' faces were flagged."
    )
