"""Score the same faces with every detector, measure them, and write `compare.json`, `.csv` and `.html`."""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from scorer.commands.progress import Progress
from scorer.decide import Calibration
from scorer.errors import UnlensedError
from scorer.extras import describe_missing
from scorer.files import replace_file
from scorer.mixture import round_nats
from training.evaluation.compare.conditions import WindowCondition, list_window_conditions
from training.evaluation.compare.fusion import Fusion, Pair, conclude, fuse
from training.evaluation.compare.metrics import DetectorOutcome, measure_detector, orient
from training.evaluation.compare.report import write_page
from training.evaluation.compare.scores import (
    Cost,
    MemoryMeter,
    NotFinite,
    ScoreCache,
    Scores,
    digest_detector,
    digest_windows,
    score_detector,
)
from training.evaluation.detectors.base import Detector, NetworkDetector
from training.evaluation.detectors.windows import Windows
from training.evaluation.measures import LogLikelihoods, Rate
from training.evaluation.operating_points import (
    MIN_SOURCES,
    Origins,
    find_finest_rate,
    judge_generators,
    serve_p_values,
)
from training.evaluation.robustness import AS_STORED, EQUAL_PX, EQUAL_QUALITY, EQUALISED
from training.run_lock import hold_folder

ONE_CLASS_SCORE = "bundle"  # whose p-values are fused with each other detector's
FORMATS = (AS_STORED, EQUALISED)  # conditions with intervals for every figure, and with fusion
JSON, CSV, PAGE = "compare.json", "compare.csv", "compare.html"


@dataclass(frozen=True, slots=True)
class Opener:
    """How to open a detector.

    Attributes:
        open: returns it, and the digest of what its scores depend on beside its code and its weights; raises
            `FileNotFoundError`, `ImportError`, `ValueError` or `UnlensedError` with the reason if a file, a training or
            a package is not there.
        trained_on: where its weights come from, a sentence; empty if it is not trained on generated pictures.
        training: names of the generators that it was trained on.
        notes: what a reader of its figures must know.
    """

    open: Callable[[], tuple[Detector, bytes]]
    trained_on: str = ""
    training: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ComparedFaces:
    """The faces that every detector scores: photographs of several sources, and generated ones by generator."""

    photographs: Windows
    generated: Mapping[str, Windows]

    def list_sets(self) -> dict[str, Windows]:
        """Return the windows by name; "" is photographs."""
        return {"": self.photographs, **self.generated}


@dataclass(frozen=True, slots=True, eq=False)
class ScoredDetector:
    """A detector that scored every face.

    Attributes:
        facts: what the report states of it.
        higher_is_generated: of its scores.
        own_threshold: of its oriented values; None without one.
        scores: by condition and set.
        cost: of all scores.
    """

    facts: dict[str, Any]
    higher_is_generated: bool
    own_threshold: float | None
    scores: dict[str, dict[str, Scores]]
    cost: Cost

    def orient(self, condition: str, name: str) -> LogLikelihoods:
        """Return the values [n] of the faces of a set that were scored; low means generated."""
        scores = self.scores[condition][name]
        return orient(scores[~np.isnan(scores)], higher_is_generated=self.higher_is_generated)


def compare_detectors(  # noqa: PLR0913 - the faces, the detectors, and where results go
    faces: ComparedFaces,
    openers: Mapping[str, Opener],
    calibration: Calibration | None,
    out: Path,
    console: Console,
    *,
    curves: bool = True,
) -> dict[str, Any]:
    """Compare detectors on the same faces; return the content of `compare.json`, which is written to `out`.

    Args:
        faces: to score.
        openers: by the detector's name.
        calibration: of the bundle; None leaves fusion out.
        out: folder of the results and of the cached scores.
        console: shows progress.
        curves: whether to measure the robustness curves.

    Raises:
        FileNotFoundError: no detector can be used.
        OSError: the disk is full.
        TrainingInterrupted: another process works in `out`.
    """
    started = time.monotonic()
    conditions = list_window_conditions(curves=curves)
    with hold_folder(out):
        detectors, left_out = score_all(faces, openers, conditions, ScoreCache(out / "scores"), console)
    if not detectors:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        message = f"no detector can be used: {reasons}"
        raise FileNotFoundError(message)
    with Progress("measuring", len(detectors) * len(conditions), "rows", console, summary=True) as progress:
        outcomes: dict[str, dict[str, DetectorOutcome]] = {}
        for name in conditions:
            if conditions[name].find_scored(faces.photographs).any():
                outcomes[name] = {}
                for key, detector in detectors.items():
                    outcomes[name][key] = measure(detector, name, faces)
                    progress.advance()
    fusions, reason = fuse_all(faces, detectors, calibration, conditions)
    report = {
        "faces": describe_faces(faces),
        "detectors": {name: detector.facts for name, detector in detectors.items()},
        "left_out": left_out,
        "conditions": {name: describe_condition(conditions[name], faces) for name in outcomes},
        "control": {
            condition: {
                name: asdict(row.separation.control) if row.separation.control else None for name, row in rows.items()
            }
            for condition, rows in outcomes.items()
        },
        "results": {
            condition: {name: {"generators": row.figures, "mean": row.mean} for name, row in rows.items()}
            for condition, rows in outcomes.items()
        },
        "verdicts": {
            name: {
                generator: asdict(verdict)
                for generator, verdict in judge_generators(
                    outcomes[AS_STORED][name].separation, outcomes[EQUALISED][name].separation
                ).items()
            }
            for name in detectors
        },
        "fusion": {
            "left_out": reason,
            "verdicts": {name: conclude(rows) for name, rows in fusions.items()},
            "conditions": fusions,
        },
        "run": {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started),
            "equal_format": f"face of at most {EQUAL_PX} px, JPEG {EQUAL_QUALITY}",
            "versions": {name: version(name) for name in ("unlensed", "numpy", "torch")},
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(report, default=asdict, allow_nan=False))
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / JSON, (json.dumps(plain, indent=1) + "\n").encode())
    replace_file(out / CSV, write_csv(plain).encode())
    write_page(out / PAGE, plain)
    return plain


def score_all(
    faces: ComparedFaces,
    openers: Mapping[str, Opener],
    conditions: Mapping[str, WindowCondition],
    cache: ScoreCache,
    console: Console,
) -> tuple[dict[str, ScoredDetector], dict[str, str]]:
    """Return the scores of each detector, and the reason for each that is left out. One is open at a time."""
    sets = {name: (windows, digest_windows(windows)) for name, windows in faces.list_sets().items()}
    total = sum(len(windows) for windows, _ in sets.values()) * len(conditions)
    scored: dict[str, ScoredDetector] = {}
    left_out: dict[str, str] = {}
    with Progress("scoring", total * len(openers), "faces", console, summary=True) as progress:
        for number, (name, opener) in enumerate(openers.items(), 1):
            meter = MemoryMeter()
            try:
                detector, inputs = opener.open()
            except (FileNotFoundError, ImportError, ValueError, UnlensedError) as error:
                left_out[name] = explain(error)
                progress.advance(total * number - progress.done)
                continue
            own = digest_detector(detector, inputs)
            try:
                results = score_detector(detector, own, conditions, sets, cache, meter, progress.advance)
            except NotFinite as error:
                left_out[name] = str(error)
                progress.advance(total * number - progress.done)
                continue
            cost = Cost()
            for row in results.values():
                for each in row.values():
                    cost = cost.join(each.cost)
            scored[name] = ScoredDetector(
                describe_detector(detector, opener, cost),
                detector.higher_is_generated,
                0.0 if isinstance(detector, NetworkDetector) else None,
                {condition: {key: each.scores for key, each in row.items()} for condition, row in results.items()},
                cost,
            )
            del detector  # before the next one is opened and measured
    return scored, left_out


def explain(error: Exception) -> str:
    """Return why a detector cannot be opened, in a sentence."""
    if isinstance(error, ImportError) and error.name:
        missing = describe_missing("compare", error.name, ("train", "compare"))
        return str(missing or error)
    return str(error)


def measure(detector: ScoredDetector, condition: str, faces: ComparedFaces) -> DetectorOutcome:
    """Return the figures of a detector under a condition, on the faces that can be scored there."""
    values = {name: detector.orient(condition, name) for name in faces.list_sets()}
    return measure_detector(
        values.pop(""),
        find_origins(faces.photographs, ~np.isnan(detector.scores[condition][""])),
        {name: each for name, each in values.items() if len(each)},
        own_threshold=detector.own_threshold,
        intervals=condition in FORMATS,
    )


def find_origins(photographs: Windows, kept: Any) -> Origins:  # noqa: ANN401 - a mask
    """Return the sources and the names of the photographs that a mask keeps."""
    return photographs.sources[kept], photographs.names[kept]


def fuse_all(
    faces: ComparedFaces,
    detectors: Mapping[str, ScoredDetector],
    calibration: Calibration | None,
    conditions: Mapping[str, WindowCondition],
) -> tuple[dict[str, list[Fusion]], str]:
    """Return the fusions of the one-class score with each other detector by condition, and why there are none."""
    if calibration is None or ONE_CLASS_SCORE not in detectors:
        return {}, f"fusion needs the p-values of the detector {ONE_CLASS_SCORE}, which was not compared"
    if len(np.unique(faces.photographs.sources)) == 1:
        return {}, "fusion needs photographs of two sources or more: one half calibrates, the other is measured"
    one_class, fused = detectors[ONE_CLASS_SCORE], {}
    for name in FORMATS:
        served = {
            key: serve_p_values(
                round_nats(one_class.scores[name][key].astype(np.float64)),
                conditions[name].find_strata(windows),
                calibration,
            )
            for key, windows in faces.list_sets().items()
        }
        fused[name] = [
            fuse(
                other,
                Pair(served[""], detector.orient(name, "")),
                (faces.photographs.sources, faces.photographs.names),
                {key: Pair(served[key], detector.orient(name, key)) for key in faces.generated},
                find_finest_rate(calibration),
            )
            for other, detector in detectors.items()
            if other != ONE_CLASS_SCORE
        ]
    return fused, ""


def describe_faces(faces: ComparedFaces) -> dict[str, Any]:
    """Return the counts of the photographs and of each generator."""

    def count(windows: Windows) -> dict[str, Any]:
        return {"pictures": windows.examined, "faces": len(windows), "dropped": windows.dropped}

    sources = len(np.unique(faces.photographs.sources))
    return {
        "photographs": count(faces.photographs)
        | {"sources": sources, "intervals_by": "source" if sources >= MIN_SOURCES else "photograph"},
        "generated": {name: count(windows) for name, windows in faces.generated.items()},
    }


def describe_condition(condition: WindowCondition, faces: ComparedFaces) -> dict[str, int]:
    """Return how many faces were scored and left out, because they became too small."""
    scored = [condition.find_scored(windows) for windows in faces.list_sets().values()]
    return {"faces": sum(int(each.sum()) for each in scored), "left_out": sum(int((~each).sum()) for each in scored)}


def describe_detector(detector: Detector, opener: Opener, cost: Cost) -> dict[str, Any]:
    """Return what the report states of a detector."""
    network = isinstance(detector, NetworkDetector)
    return {
        "title": detector.design.title if isinstance(detector, NetworkDetector) else detector.name,
        "publication": detector.design.publication if isinstance(detector, NetworkDetector) else "",
        "parameters": sum(each.numel() for each in detector.network.parameters())
        if isinstance(detector, NetworkDetector)
        else None,
        "kind": "trained on real and generated faces" if network else "one-class: no generated picture",
        "trained_on": opener.trained_on,
        "training": list(opener.training),
        "notes": list(opener.notes),
        "higher_is_generated": detector.higher_is_generated,
        "faces_per_second": round(cost.faces / max(cost.seconds, 1e-9), 2),
        "seconds_for_1000_faces": round(1000 * cost.seconds / max(cost.faces, 1), 1),
        "peak_mb": round(cost.peak_bytes / 1e6),
        "device_peak_mb": round(cost.device_bytes / 1e6),
    }


def write_csv(report: Mapping[str, Any]) -> str:
    """Return the figures as CSV, one row for each condition, detector, generator and figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("condition", "detector", "generator", "figure", "value", "low", "high", "faces"))

    def write(place: tuple[str, str, str], figures: Mapping[str, dict[str, Any] | None]) -> None:
        for figure, rate in figures.items():
            if rate:
                writer.writerow((*place, figure, rate["value"], rate["low"], rate["high"], rate["count"]))

    for condition, rows in report["results"].items():
        for name, row in rows.items():
            control = report["control"][condition][name]
            if control:
                rate = Rate(control["median"], control["low"], control["high"], control["sources"])
                write((condition, name, "(control: a real source against the others)"), {"auc": asdict(rate)})
            for generator, figures in row["generators"].items():
                write((condition, name, generator), figures)
            write((condition, name, "(mean)"), row["mean"])
    return text.getvalue()
