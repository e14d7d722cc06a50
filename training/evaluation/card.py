"""Write MODEL_CARD.md from the figures of a run; only its limits and the detector's recall are fixed text.

The recall depends on the detector's settings and not on a run; `tests/benchmarks/detector_recall.py` prints it.
"""

import json
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from scorer.decide import supported_rate
from scorer.meaning import explain_pass
from training.data import detector
from training.data.photos import ROLES
from training.data.shards import load_role
from training.evaluation.operating_points import RATES
from training.evaluation.stated import state_evaluation
from training.export.target import Deployment
from training.recipes import Recipe

LICENCE = {
    "bundle": (
        "Demonstration for research only. Weights derived from EfficientNet-Lite0 (Apache-2.0) by training on "
        "photographs from public repositories that state no licence; no right beyond research is claimed or granted."
    ),
    "detector": detector.LICENCE,
}
MEASURED_BY = (
    " On a GPU, its results are compared with the golden faces. All figures below on generated and test faces were "
    "measured with the OpenVINO engines of the same network, with their own mixture and calibration."
)
CHANCE = 0.5
STATED_RATE = f"{RATES[0]:g}"  # the false-alarm rate of the card's figures
TEMPLATE = Path(__file__).with_name("card_template.md")


def write_card(run: Path, path: Path, recipe: Recipe, bundle_id: str, deployment: Deployment) -> None:
    """Write the card of `run` to `path`.

    Raises:
        FileNotFoundError: a step whose figures the card contains has not been run.
    """
    report, prepared = (
        json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("evaluation", "prepare")
    )
    results = deployment.results(run)
    fit, calibration = (
        json.loads((results / f"{name}.json").read_text(encoding="utf-8")) for name in ("fit", "calibration")
    )
    facts, operating = read_chosen_epoch(run), report["operating_points"]
    dropped = prepared["dropped"]
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        bundle_id=bundle_id,
        meaning=explain_pass(state_evaluation(report), RATES[0]),
        verdict=f"**{report['verdict']['summary']}**",
        frozen_blocks=recipe.frozen_blocks,
        recipe=recipe.name,
        epoch=int(facts["epoch"]),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        thurstone=f"{recipe.losses.pairs.thurstone_scale:.4g}",
        tie=f"{recipe.losses.pairs.tie_target:g}",
        engine=deployment.describe(),
        measured_by=MEASURED_BY if deployment.target == "tensorrt" else "",
        shape=fit["shape"],
        fitted_faces=fit["faces"],
        fitted_roles=" and ".join(fit["roles"]),
        calibration_size=calibration["faces"],
        calibration_photos=calibration["photographs"],
        confidence=f"{100 * calibration['confidence']:g} %",
        assumption=calibration["assumption"],
        threshold_rows=describe_thresholds(calibration),
        finest=f"{100 * supported_rate(calibration['photographs']):g} %",
        min_face=f"{recipe.min_face_px:g}",
        data_rows="\n".join(describe_role(run, role) for role in ROLES),
        sources=sum(row["sources"] for row in prepared["roles"].values()),
        duplicates=dropped.get("near_duplicate", 0),
        collected=prepared["photographs"],
        dropped=", ".join(f"{name.replace('_', ' ')} {count}" for name, count in dropped.items()),
        pretext_rows="\n".join(
            f"| {name} | {describe_auc(row)} | {facts[name]:.2f} |" for name, row in report["pretext"].items()
        ),
        pretext_verdict=judge_pretext(report["pretext"]),
        auc_rows="\n".join(describe_generator(operating, name) for name in operating["raw"]["auc"]),
        control_rows="\n".join(
            f"| real source {index} | {describe_auc(raw)} "
            f"| {describe_auc(operating['format_equalised']['source_control'][name])} |"
            for index, (name, raw) in enumerate(operating["raw"]["source_control"].items(), 1)
        ),
        alarm_rows="\n".join(
            f"| {float(rate):.0%} | {describe_rate(row['photographs'])} | {report['run']['test_faces']} |"
            for rate, row in operating["flagged"].items()
        ),
        alarm_sources=", ".join(
            f"real source {index} {describe_rate(row)}"
            for index, row in enumerate(operating["flagged"][STATED_RATE]["by_source"].values(), 1)
        ),
        shape_rows="\n".join(f"| {name} | {nats:.1f} |" for name, nats in fit["held_out_nats"].items()),
        test_faces=report["run"]["test_faces"],
        engine_rows="\n".join(describe_engine(name, row) for name, row in report["engines"].items()),
        std=f"{report['engines']['fp32']['drift']['std_nats']:.0f}",
        threads=report["run"]["threads"],
        detector_licence=detector.LICENCE,
    )
    path.write_text(text, encoding="utf-8")


def read_chosen_epoch(run: Path) -> dict[str, float]:
    """Return the metrics of the selected epoch."""
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen: dict[str, float] = max(lines, key=lambda line: line["merit"])
    return chosen


def judge_pretext(pretext: dict[str, dict[str, Any]]) -> str:
    """Return a sentence with the tasks whose accuracy on other sources is not significantly above chance, if any."""
    weak = [name for name, row in pretext.items() if row["low"] <= CHANCE]
    return f"Not significantly above chance on other sources: {', '.join(weak)}." if weak else ""


def describe_role(run: Path, role: str) -> str:
    """Return one table row with the counts of a role."""
    faces = load_role(run, role)
    photos, sources = len(np.unique(faces.photos)), len(np.unique(faces.sources))
    tagged = int((~np.isnan(faces.tags)).all(axis=1).sum())
    cameras = len(set(faces.cameras.tolist()) - {""})
    return f"| {role} | {sources} | {photos} | {len(faces)} | {tagged} | {cameras} |"


def describe_auc(row: dict[str, Any]) -> str:
    """Return an AUC or an accuracy with its interval."""
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def describe_rate(row: dict[str, Any] | None) -> str:
    """Return a share with its interval; a dash if the calibration does not support the rate."""
    return "-" if row is None else f"{row['value']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


def describe_thresholds(calibration: dict[str, Any]) -> str:
    """Return a table row for each target rate, highest first: the threshold, or why the rate is not supported."""
    cells = {rate: f"- | {sentence}" for rate, sentence in calibration["refused"].items()}
    for rate, row in calibration["thresholds"].items():
        cells[rate] = f"{row['nats']:.1f} | {100 * row['rate_low']:.2g} to {100 * row['rate_high']:.2g} %"
    return "\n".join(f"| {100 * float(rate):g} % | {cells[rate]} |" for rate in sorted(cells, key=float, reverse=True))


def describe_generator(operating: dict[str, Any], name: str) -> str:
    """Return one table row with a generator's figures."""
    raw, equal = (operating[kind]["auc"][name] for kind in ("raw", "format_equalised"))
    flagged = describe_rate(operating["flagged"][STATED_RATE]["generated"][name])
    return f"| {name} | {raw['count']} | {describe_auc(raw)} | {describe_auc(equal)} | {flagged} |"


def describe_engine(precision: str, row: dict[str, Any]) -> str:
    """Return one table row with an engine's drift, size and speed."""
    drift = row["drift"]
    nats = " | ".join(f"{drift[name]:.2f}" for name in ("median_nats", "p95_nats", "max_nats"))
    return (
        f"| {precision} | {nats} | {drift['rank_correlation']:.4f} | {drift['flips_at_5_percent']:.1%} "
        f"| {row['bytes'] / 1e6:.2f} | {row['faces_per_second']:.0f} |"
    )
