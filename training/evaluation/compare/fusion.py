"""Fusion: the p-value of the one-class score joined with that of each other detector.

The p-value of the one-class score is the bundle's, by stratum. That of another detector is conformal, on the faces of
half of the real sources. Everything is measured on the other half, whose sources no p-value has seen.

- Fisher: under independence of both p-values.
- minimum: twice the smaller one (Bonferroni), valid under any dependence.
- harmonic: harmonic mean with its exact distribution for two independent p-values.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from scorer.decide import p_values
from training.evaluation.compare.metrics import average_draws, draw_figures, resolves, summarise
from training.evaluation.measures import LogLikelihoods, Rate, count_share
from training.evaluation.operating_points import Origins, choose_clusters, name_photographs

RATE = 0.01
_FIGURE = f"tpr_{RATE:g}"
PValues = NDArray[np.float64]


def join_fisher(first: PValues, second: PValues) -> PValues:
    """Return the p-values [N] of Fisher's statistic, -2 (ln p + ln q), which has a chi-squared law of 4 degrees."""
    joined: PValues = chi2.sf(-2 * (np.log(first) + np.log(second)), 4)
    return joined


def join_minimum(first: PValues, second: PValues) -> PValues:
    """Return twice the smaller p-values [N], at most 1."""
    return np.asarray(np.minimum(1, 2 * np.minimum(first, second)))


def join_harmonic(first: PValues, second: PValues) -> PValues:
    """Return the probabilities [N] that the harmonic mean of two independent uniforms is at most this one.

    With s = 1/p + 1/q, the area where 1/u + 1/v >= s is 2/s + 2 ln(s - 1) / s^2.
    """
    s = 1 / first + 1 / second
    return np.minimum(1, 2 / s + 2 * np.log(s - 1) / s**2)


METHODS: Mapping[str, Callable[[PValues, PValues], PValues]] = {
    "Fisher": join_fisher,
    "minimum": join_minimum,
    "harmonic mean": join_harmonic,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to flag the faces of unseen sources.

    Attributes:
        name: "one-class", the detector's own name, or the method.
        false_alarms: share of photographs with p <= `RATE`; None if the calibration cannot give such a p-value.
        flagged: mean over generators of the share with p <= `RATE`; None likewise.
        tpr: mean detection where `RATE` of these very photographs is flagged; None if they are too few.
        gain: of `tpr` over the better of the two alone; None for these.
        helps: whether the interval of the gain is above 0.
    """

    name: str
    false_alarms: Rate | None
    flagged: float | None
    tpr: Rate | None
    gain: Rate | None
    helps: bool


@dataclass(frozen=True, slots=True)
class Fusion:
    """The one-class score with one detector.

    Attributes:
        detector: the other one.
        calibrated_sources, calibrated_faces: the half that its p-values compare with.
        unseen_sources, unseen_faces: the half that was measured.
        rows: both alone, then the methods.
    """

    detector: str
    calibrated_sources: int
    calibrated_faces: int
    unseen_sources: int
    unseen_faces: int
    rows: list[Row]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """P-values of the one-class score, and values of the other detector, of the same faces; low means generated."""

    p_values: PValues
    values: LogLikelihoods


def split_sources(sources: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return which faces [N] calibrate: of half of the sources, with about half of the faces; always the same."""
    halves: tuple[list[str], list[str]] = ([], [])
    sizes = [0, 0]
    for source, count in sorted(Counter(sources.tolist()).items(), key=lambda item: (-item[1], item[0])):
        half = int(np.argmin(sizes))
        halves[half].append(source)
        sizes[half] += count
    return np.isin(sources, halves[0])


def fuse(
    detector: str,
    photographs: Pair,
    origins: Origins,
    generated: Mapping[str, Pair],
    finest: float,
) -> Fusion:
    """Return the figures of both alone and of their fusions.

    Args:
        detector: name of the other detector.
        photographs: their p-values and values.
        origins: of the photographs.
        generated: by generator.
        finest: the lowest p-value that the bundle can give to every face.

    Raises:
        ValueError: the photographs have a single source, so that there is no unseen one.
    """
    sources, photos = origins
    calibrates = split_sources(sources)
    if calibrates.all():
        message = "fusion needs photographs of two sources or more: one half calibrates, the other is measured"
        raise ValueError(message)
    held_out = np.sort(photographs.values[calibrates])
    unseen = sources[~calibrates], photos[~calibrates]
    pairs = {"": Pair(photographs.p_values[~calibrates], photographs.values[~calibrates])} | dict(generated)
    first = {name: pair.p_values for name, pair in pairs.items()}
    second = {name: p_values(pair.values, held_out) for name, pair in pairs.items()}
    finest_pair = np.array([finest]), np.array([1 / (1 + len(held_out))])
    singles = {
        "one-class": (first, finest),
        detector: (second, float(finest_pair[1][0])),
    }
    joined = {
        name: ({key: join(first[key], second[key]) for key in pairs}, float(join(*finest_pair)[0]))
        for name, join in METHODS.items()
    }
    draws = {name: _draw_detection(values, unseen) for name, (values, _) in (singles | joined).items()}
    better = max(singles, key=lambda name: np.nan_to_num(draws[name][0]))
    rows = []
    for name, (values, lowest) in (singles | joined).items():
        gain = None if name in singles else summarise(draws[name] - draws[better], len(unseen[0]))
        rows.append(_describe(name, values, unseen, lowest, (draws[name], gain)))
    return Fusion(
        detector,
        len(np.unique(sources[calibrates])),
        int(calibrates.sum()),
        len(np.unique(unseen[0])),
        len(unseen[0]),
        rows,
    )


def _draw_detection(values: Mapping[str, PValues], origins: Origins) -> NDArray[np.float64]:
    """Return the draws of the mean detection rate where `RATE` of the photographs "" are flagged."""
    generated = {name: each for name, each in values.items() if name}
    return average_draws(draw_figures(values[""], choose_clusters(origins), generated))[_FIGURE]


def _describe(
    name: str,
    values: Mapping[str, PValues],
    origins: Origins,
    lowest: float,
    drawn: tuple[NDArray[np.float64], Rate | None],
) -> Row:
    draws, gain = drawn
    hits = values[""] <= RATE
    clusters = choose_clusters(origins) if hits.any() and not hits.all() else name_photographs(*origins)
    possible = lowest <= RATE
    shares = [float((each <= RATE).mean()) for key, each in values.items() if key]
    return Row(
        name,
        count_share(hits, clusters) if possible else None,
        float(np.mean(shares)) if possible else None,
        summarise(draws, len(origins[0])) if resolves(RATE, len(origins[0])) else None,
        gain,
        gain is not None and gain.low > 0,
    )


def conclude(fusions: list[Fusion]) -> str:
    """Return a sentence: whether any fusion helps at `RATE` on unseen sources."""
    measured = [row for fusion in fusions for row in fusion.rows if row.gain]
    if not measured:
        return (
            f"Whether fusion helps at {100 * RATE:g} % false alarms was not measured: there are fewer than "
            f"{round(1 / RATE) - 1} photographed faces of unseen sources, or no detector beside the one-class score."
        )
    helping = [
        f"{fusion.detector} by {row.name} (+{100 * row.gain.value:.1f} points, {100 * row.gain.low:.1f} to "
        f"{100 * row.gain.high:.1f})"
        for fusion in fusions
        for row in fusion.rows
        if row.helps and row.gain
    ]
    if not helping:
        return (
            f"Fusion does not help at {100 * RATE:g} % false alarms on unseen sources: no interval of a gain over the "
            f"better of the two alone is above 0 ({len(measured)} were measured)."
        )
    return (
        f"Fusion helps at {100 * RATE:g} % false alarms on unseen sources, beyond the better of the two alone, with "
        f"{len(helping)} of {len(measured)}: {'; '.join(helping)}. The intervals are not corrected for their number."
    )
