"""Write MODEL_CARD.md from the figures of a run; only its limits and the detector's recall are fixed text.

The recall depends on the detector's settings and not on a run; `tests/benchmarks/detector_recall.py` prints it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from scorer.decide import supported_rate
from scorer.meaning import explain_pass
from training.data import detector
from training.data.photos import ROLES
from training.data.shards import load_role
from training.evaluation.operating_points import MIN_SOURCES, RATES
from training.evaluation.run_facts import RunFacts
from training.evaluation.stated import state_evaluation
from training.evaluation.tables import table_robustness
from training.export.target import Deployment
from training.recipes import Recipe

DEMONSTRATION = "This is a demonstration of a method. "
EPOCH_CHOICES = {  # by `Recipe.keeps`
    "best": "The role fit selected the epoch, so its figures are slightly optimistic",
    "last": "No role selected the epoch: the last one counts",
}
ON_GPU = " On a GPU, its results are compared with the golden faces."
BY_OPENVINO = (
    " All figures below on generated and test faces were measured with the OpenVINO engines of the same network, with "
    "their own mixture and calibration."
)
BY_ONNX = (
    " All figures below on generated and test faces were measured with its graph, executed on a CPU by onnxruntime."
)
CHANCE = 0.5
STATED_RATE = f"{RATES[0]:g}"  # the false-alarm rate of the card's figures
TEMPLATE = Path(__file__).with_name("card_template.md")


def write_card(  # noqa: PLR0913, PLR0917 - the parts of a run
    path: Path,
    facts: RunFacts,
    recipe: Recipe,
    bundle_id: str,
    deployment: Deployment,
    report: dict[str, Any],
    results: Path,
) -> None:
    """Write the card of a run to `path`.

    Args:
        path: of the card.
        facts: of the run.
        recipe: of the run.
        bundle_id: of the bundle.
        deployment: the engine.
        report: content of the `evaluation.json` that the bundle states.
        results: folder of the deployment's `fit.json` and `calibration.json`.

    Raises:
        FileNotFoundError: a step whose figures the card contains has not been run.
    """
    fit, calibration = (
        json.loads((results / f"{name}.json").read_text(encoding="utf-8")) for name in ("fit", "calibration")
    )
    operating, dropped, train = report["operating_points"], facts.prepared["dropped"], load_role(facts.run, "train")
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        demonstration=DEMONSTRATION if recipe.name == "starter" else "",
        bundle_id=bundle_id,
        meaning=explain_pass(state_evaluation(report), RATES[0]),
        verdict=f"**{report['verdict']['summary']}**",
        extractor=facts.describe_extractor(recipe),
        recipe=recipe.name,
        epoch=int(facts.epoch["epoch"]),
        epochs=facts.trained.get("epochs", recipe.epochs),
        batch_size=facts.trained.get("batch_size", recipe.batch_size),
        thurstone=f"{recipe.losses.pairs.thurstone_scale:.4g}",
        tie=f"{recipe.losses.pairs.tie_target:g}",
        crop=describe_crop(recipe),
        engine=deployment.describe(),
        measured_by=describe_measurement(report, deployment),
        shape=fit["shape"],
        fitted_faces=describe_faces(fit),
        fitted_roles=" and ".join(fit["roles"]),
        selection=fit.get("selection", ""),
        calibration_size=calibration["faces"],
        calibration_photos=calibration["photographs"],
        confidence=f"{100 * calibration['confidence']:g} %",
        assumption=calibration["assumption"],
        threshold_rows=describe_thresholds(calibration),
        strata_rows=describe_strata(calibration),
        finest=f"{100 * supported_rate(calibration['photographs']):g} %",
        min_face=f"{recipe.min_face_px:g}",
        data=facts.describe_data(),
        data_rows="\n".join(describe_role(facts.run, role) for role in ROLES),
        cameras=facts.describe_cameras(),
        sources=sum(row["sources"] for row in facts.prepared["roles"].values()),
        duplicates=dropped.get("near_duplicate", 0),
        collected=facts.prepared["photographs"],
        dropped=", ".join(f"{name.replace('_', ' ')} {count}" for name, count in dropped.items()) or "none",
        pretext_rows="\n".join(
            f"| {name} | {describe_auc(row)} | {facts.epoch[name]:.2f} |" for name, row in report["pretext"].items()
        ),
        epoch_choice=EPOCH_CHOICES[recipe.keeps],
        pretext_verdict=judge_pretext(report["pretext"]),
        auc_rows="\n".join(describe_generator(operating, name) for name in operating["raw"]["auc"]),
        robustness=describe_robustness(report),
        support=" ".join(report["verdict"]["support"]),
        equal_format=report["run"]["equal_format"],
        intervals_by=report["run"]["intervals_by"],
        alarm_rows="\n".join(
            f"| {float(rate):.0%} | {describe_rate(row['photographs'])} "
            f"| {describe_rate(operating['flagged_equalised'][rate]['photographs'])} | {report['run']['test_faces']} |"
            for rate, row in operating["flagged"].items()
        ),
        alarm_sources=describe_sources(operating["flagged"][STATED_RATE]["by_source"]),
        shape_rows=describe_candidates(fit),
        test_faces=report["run"]["test_faces"],
        engine_rows="\n".join(describe_engine(name, row) for name, row in report["engines"].items()),
        std=f"{report['engines']['fp32']['drift']['std_nats']:.0f}",
        threads=report["run"]["threads"],
        licence=facts.describe_licence(recipe),
        detector_licence=detector.LICENCE,
        landmarks=facts.describe_landmarks(),
        train_faces=len(train),
        train_photos=len(np.unique(train.photos)),
        train_cameras=len(set(train.cameras.tolist()) - {""}),
    )
    path.write_text(text, encoding="utf-8")


def describe_faces(fit: Mapping[str, Any]) -> str:
    """Return in words what the mixture of `fit.json` was fitted on."""
    copies = fit.get("copies_of_each_face", 0)
    return f"{fit['faces']} faces" + (f" and {copies} reduced and compressed copies of each" if copies else "")


def describe_measurement(report: dict[str, Any], deployment: Deployment) -> str:
    """Return with which engine the figures were measured, if it is not the one that serves."""
    if deployment.target == "openvino":
        return ""
    return ON_GPU + (BY_OPENVINO if "openvino" in report["run"]["versions"] else BY_ONNX)


def describe_crop(recipe: Recipe) -> str:
    """Return how a face is cut, in words."""
    spec = recipe.preprocess
    smoothed = "with" if spec.antialias else "without"
    return f"{spec.margin:g} times the box, resized to {spec.size} px {smoothed} antialiasing"


def describe_candidates(fit: dict[str, Any]) -> str:
    """Return a table of the candidates and how they were judged, or that the recipe names a single one."""
    if not fit["held_out_nats"]:
        return "The recipe names one mixture: nothing was chosen."
    alarms = fit.get("held_out_alarms", {})
    rows = (
        f"| {name} | {nats:.1f} | {f'{alarms[name]:.1%}' if name in alarms else '-'} |"
        for name, nats in fit["held_out_nats"].items()
    )
    left_out = fit.get("held_out_by", "source")
    rule = (
        f"Each {left_out} of the role fit was left out of a fit once. The candidate with the largest mean "
        "log-likelihood per face was chosen; no generated face took part."
    )
    return "\n".join(
        (
            rule,
            "",
            "| candidate | nats | share below the 5th percentile of the fitted faces |",
            "|---|---|---|",
            *rows,
        )
    )


def judge_pretext(pretext: dict[str, dict[str, Any]]) -> str:
    """Return a sentence with the tasks whose accuracy on other sources is not significantly above chance, if any."""
    weak = [name for name, row in pretext.items() if row["low"] <= CHANCE]
    return f"Not significantly above chance on other sources: {', '.join(weak)}." if weak else ""


def describe_role(run: Path, role: str) -> str:
    """Return one table row with the counts of a role."""
    faces = load_role(run, role)
    photos, sources = len(np.unique(faces.photos)), len(np.unique(faces.sources))
    tagged = int((~np.isnan(faces.tags)).all(axis=1).sum())
    cameras = faces.cameras.tolist()
    named = len(set(cameras) - {""})
    return f"| {role} | {sources} | {photos} | {len(faces)} | {tagged} | {named} | {cameras.count('')} |"


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


def describe_strata(calibration: dict[str, Any]) -> str:
    """Return a table row for each stratum; the p-values of one with too few photographs count all photographs."""
    rows = []
    for name, part in calibration["strata"].items():
        rate = f"{100 * supported_rate(part['photographs']):g} %" if part["used"] else "too few: pooled"
        found = part["thresholds"].get(STATED_RATE)
        nats = f"{found['nats']:.1f}" if found else "-"
        rows.append(f"| {name} | {part['faces']} | {part['photographs']} | {rate} | {nats} |")
    return "\n".join(rows)


def describe_generator(operating: dict[str, Any], name: str) -> str:
    """Return one table row with a generator's figures."""
    raw, equal = (operating[kind]["auc"][name] for kind in ("raw", "format_equalised"))
    flagged = (operating[kind][STATED_RATE]["generated"][name] for kind in ("flagged", "flagged_equalised"))
    shares = " | ".join(map(describe_rate, flagged))
    return f"| {name} | {raw['count']} | {describe_auc(raw)} | {describe_auc(equal)} | {shares} |"


def describe_sources(by_source: dict[str, Any]) -> str:
    """Return the shares of photographs flagged, by source without its name: each, or quantiles of many."""
    rates = [row for row in by_source.values() if row]
    if len(rates) < MIN_SOURCES:
        return ", ".join(f"real source {index} {describe_rate(row)}" for index, row in enumerate(rates, 1)) or "-"
    low, median, high = np.quantile([row["value"] for row in rates], [0.1, 0.5, 0.9])
    return f"{low:.1%} / {median:.1%} / {high:.1%} (10, 50 and 90 % of {len(rates)} sources)"


def describe_robustness(report: dict[str, Any]) -> str:
    """Return the table of processed copies, with its note."""
    table = table_robustness(report)
    lines = (table.head, ("---",) * len(table.head), *table.rows)
    return "\n".join((*(f"| {' | '.join(cells)} |" for cells in lines), "", table.note))


def describe_engine(precision: str, row: dict[str, Any]) -> str:
    """Return one table row with an engine's drift, size and speed."""
    drift = row["drift"]
    nats = " | ".join(f"{drift[name]:.2f}" for name in ("median_nats", "p95_nats", "max_nats"))
    return (
        f"| {precision} | {nats} | {drift['rank_correlation']:.4f} | {drift['flips_at_5_percent']:.1%} "
        f"| {row['bytes'] / 1e6:.2f} | {row['faces_per_second']:.0f} |"
    )
