"""How far a run is from the promise of its policy: measured false-alarm and catch rates, and whether to recalibrate."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from scorer.archive.calibration.faces import RunFaces
from scorer.archive.calibration.labels import Label
from scorer.archive.calibration.refit import MIN_SOURCES
from scorer.archive.report.shares import MAX_GROUPS, MIN_GROUP_FACES, ReportModel
from scorer.decide import photographs_needed
from scorer.fitting.calibrate import clustered_interval

FAR = 1.2  # a share within this factor of the promised rate is no reason to recalibrate, however certain it is


class Verdict(StrEnum):
    """Where the promised rate lies: in the interval, below it (too many alarms) or above it (fewer than promised)."""

    KEPT = "kept"
    ABOVE = "above the promise"
    BELOW = "below the promise"


class Advice(StrEnum):
    """Whether to recalibrate; with too few photographs nothing can be said."""

    YES = "yes"
    NO = "no"
    OPTIONAL = "optional"
    UNKNOWN = "unknown"


class MeasuredRate(ReportModel):
    """Faces with a p-value of at most `promised`, and the 95 % interval of their share.

    The interval is Clopper and Pearson's for photographs. Those of one source count as one cluster where there are at
    least `MIN_SOURCES` sources, and faces with and without such a p-value to measure how they differ. `verdict` is None
    for generated faces.
    """

    name: str
    promised: float
    faces: int
    photographs: int
    flagged: int
    share: float
    low: float
    high: float
    verdict: Verdict | None


class PromiseCheck(ReportModel):
    """A run against its promise.

    Attributes:
        false_alarms: over all faces of photographs, not tracks of clips, that no reviewer labelled generated or unsure,
            at each rate of the policy.
        labelled: the same over faces labelled `photograph`; a fair sample only if reviewers chose faces without regard
            to their decision.
        caught: over faces labelled `generated`.
        by_stratum, by_source, by_camera: as `false_alarms`, the groups with most faces.
        labels: faces by label.
        copies: faces that were left out as copies.
        unknown_labels: labels that name no result of the run.
        recalibrate: the advice, and `sentence` states it with its reason.
    """

    bundle_id: str
    bundle_digest: str
    policy_id: str
    policy_version: str
    false_alarms: tuple[MeasuredRate, ...]
    labelled: tuple[MeasuredRate, ...]
    caught: tuple[MeasuredRate, ...]
    by_stratum: tuple[MeasuredRate, ...]
    by_source: tuple[MeasuredRate, ...]
    by_camera: tuple[MeasuredRate, ...]
    labels: dict[str, int]
    copies: int
    unknown_labels: int
    recalibrate: Advice
    sentence: str


def check_promise(faces: RunFaces) -> PromiseCheck:
    """Return what the faces of a run say about the rates that its policy promises."""
    policy = faces.run.policy
    rates = sorted({policy.flag_false_alarm_rate, policy.review_false_alarm_rate})
    assumed = faces.select(~faces.labelled(Label.GENERATED, Label.UNSURE))
    known = {label: faces.select(faces.labelled(label)) for label in Label}
    overall = _measure_all(assumed.select(~assumed.is_track), "all", rates)
    strata = _measure_groups(assumed, "stratum", rates)
    advice, sentence = advise(overall, strata, labelled=any(map(len, known.values())))
    return PromiseCheck(
        bundle_id=faces.run.bundle_id,
        bundle_digest=faces.run.bundle_digest,
        policy_id=policy.policy_id,
        policy_version=policy.version,
        false_alarms=overall,
        labelled=_measure_all(known[Label.PHOTOGRAPH], "labelled photograph", rates),
        caught=_measure_all(known[Label.GENERATED], "labelled generated", rates, judged=False),
        by_stratum=strata,
        by_source=_measure_groups(assumed, "source", rates),
        by_camera=_measure_groups(assumed, "camera", rates),
        labels={label.value: len(found) for label, found in known.items()},
        copies=faces.copies,
        unknown_labels=faces.unknown_labels,
        recalibrate=advice,
        sentence=sentence,
    )


def advise(
    overall: tuple[MeasuredRate, ...], strata: tuple[MeasuredRate, ...], *, labelled: bool
) -> tuple[Advice, str]:
    """Return whether to recalibrate, and a sentence with the reason.

    Args:
        overall: the false alarms at each rate of the policy.
        strata: the same by stratum.
        labelled: whether reviewers labelled faces of the run.
    """
    needed = photographs_needed(max((row.promised for row in overall), default=0.05))
    photographs = overall[0].photographs if overall else 0
    if photographs < needed:
        return Advice.UNKNOWN, f"The run has {photographs} photographs with a scored face; a check needs {needed}."
    caution = (
        ""
        if labelled
        else " No face is labelled: generated pictures in the run count as false alarms here, so label a sample first."
    )
    if above := [row for row in overall if _is_far_above(row)]:
        return Advice.YES, f"Recalibrate: {_state(above[-1])}.{caution}"
    apart = [row for row in strata if _is_far_above(row) and row.photographs >= photographs_needed(row.promised)]
    if apart:
        worst = max(apart, key=lambda row: row.share / row.promised)
        return (
            Advice.YES,
            f"Recalibrate by stratum: overall the promise is kept, but of {worst.name} {_state(worst)}.{caution}",
        )
    if all(row.verdict is Verdict.BELOW and row.share * FAR < row.promised for row in overall):
        return Advice.OPTIONAL, (
            f"The promise is kept with fewer false alarms than allowed: {_state(overall[-1])}; recalibrating would "
            "flag more faces of both kinds."
        )
    return Advice.NO, f"No need to recalibrate: {_state(overall[-1])}."


def _is_far_above(row: MeasuredRate) -> bool:
    return row.verdict is Verdict.ABOVE and row.share > FAR * row.promised


def _state(row: MeasuredRate) -> str:
    return (
        f"{100 * row.share:.1f} % ({100 * row.low:.1f} to {100 * row.high:.1f} %) of the faces have a p-value of at "
        f"most {100 * row.promised:g} %, where {100 * row.promised:g} % are promised"
    )


def _measure_groups(faces: RunFaces, column: str, rates: list[float]) -> tuple[MeasuredRate, ...]:
    """Return the rates of the groups with most faces, without groups of fewer than `MIN_GROUP_FACES`."""
    codes, names = faces.codes(column)
    sizes = np.bincount(codes, minlength=len(names))
    shown = [code for code in np.argsort(-sizes, kind="stable")[:MAX_GROUPS] if sizes[code] >= MIN_GROUP_FACES]
    return tuple(row for code in shown for row in _measure_all(faces.select(codes == code), names[code], rates))


def _measure_all(faces: RunFaces, name: str, rates: list[float], *, judged: bool = True) -> tuple[MeasuredRate, ...]:
    if not len(faces):
        return ()
    p_values = faces.numbers("p_value")
    return tuple(_measure(faces, name, rate, p_values <= rate, judged=judged) for rate in rates)


def _measure(faces: RunFaces, name: str, rate: float, hits_N: NDArray[np.bool_], *, judged: bool) -> MeasuredRate:
    by_source = faces.count("source") >= MIN_SOURCES and hits_N.any() and not hits_N.all()
    clusters, _ = faces.codes("source" if by_source else "photograph")
    low, high = clustered_interval(hits_N, clusters)
    verdict = Verdict.ABOVE if low > rate else Verdict.BELOW if high < rate else Verdict.KEPT
    return MeasuredRate(
        name=name,
        promised=rate,
        faces=len(faces),
        photographs=faces.count("photograph"),
        flagged=int(hits_N.sum()),
        share=float(hits_N.mean()),
        low=low,
        high=high,
        verdict=verdict if judged else None,
    )
