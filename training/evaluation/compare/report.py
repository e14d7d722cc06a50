"""Write `compare.html` from the content of `compare.json`: one file without scripts or external resources."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scorer.files import replace_file
from training.evaluation.compare.charts import draw_aucs, draw_curves
from training.evaluation.compare.conditions import CURVES
from training.evaluation.compare.fusion import RATE
from training.evaluation.compare.metrics import FIGURES
from training.evaluation.operating_points import MIN_AUC, MIN_CONTROL_FACES, MIN_SOURCES, RATES
from training.evaluation.published import ACCURACY, AUC, PRECISION
from training.evaluation.report import inline_svg, open_templates
from training.evaluation.robustness import AS_STORED, EQUALISED
from training.evaluation.tables import DASH, Table, describe_share, join_columns, percent, table_published

TEMPLATE = "compare_template.html"
MANY_FACES = 100  # of fewer, one is over a point
TRAINED_MARK = "*"  # after a figure of the generator that the detector was trained on


def describe_rate(rate: Mapping[str, Any] | None) -> str:
    """Return a value between 0 and 1 with its interval, two decimals."""
    return DASH if rate is None else f"{rate['value']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})"


def describe_control(control: Mapping[str, Any] | None) -> str:
    """Return the quantiles of a control."""
    return f"{control['low']:.2f} / {control['median']:.2f} / {control['high']:.2f}" if control else DASH


def table_control(report: Mapping[str, Any]) -> Table:
    """Return the AUC of one real source against the others, by detector, as stored and in one format."""
    controls = report["control"]
    sources = {row["sources"] for row in controls[AS_STORED].values() if row} or {0}
    return Table(
        title="The control: one source of real photographs against the others",
        note=(
            f"AUC as if each source were a generator: 10 / 50 / 90 % over {max(sources)} sources of at least "
            f"{MIN_CONTROL_FACES} faces. Nothing here is generated. A detector whose AUC on a generator is not above "
            "these figures may separate cameras and sites instead. A dash: a single source, or too few faces."
        ),
        head=("detector", "as stored", "one format"),
        rows=[
            (name, describe_control(controls[AS_STORED][name]), describe_control(controls[EQUALISED][name]))
            for name in report["detectors"]
        ],
    )


def table_matrix(report: Mapping[str, Any], condition: str, title: str, figures: tuple[str, ...], note: str) -> Table:
    """Return figures of each detector (rows) and generator (columns) under a condition."""
    generators = list(report["faces"]["generated"])
    results = report["results"][condition]

    def cell(rates: Mapping[str, Any] | None, mark: str = "") -> str:
        if rates is None:
            return DASH
        if len(figures) == 1:
            return describe_rate(rates[figures[0]]) + mark
        return " / ".join(percent(rates[name]["value"] if rates[name] else None) for name in figures) + mark

    return Table(
        title=title,
        note=note,
        head=("detector", *generators, "mean"),
        rows=[
            (
                name,
                *(
                    cell(
                        row["generators"].get(each),
                        TRAINED_MARK if each in report["detectors"][name]["training"] else "",
                    )
                    for each in generators
                ),
                cell(row["mean"]),
            )
            for name, row in results.items()
        ],
    )


def list_matrices(report: Mapping[str, Any], condition: str) -> list[Table]:
    """Return the tables of one condition: AUC, the figures of Table I, and detection at matched false alarms."""
    marked = f"{TRAINED_MARK}: trained on this generator." if any_trained(report) else ""
    by = report["faces"]["photographs"]["intervals_by"]
    return [
        table_matrix(report, condition, "AUC (Table II)", ("auc",), f"Intervals are 95 %, by {by}. {marked}"),
        table_matrix(
            report,
            condition,
            "Accuracy and average precision (Table I)",
            ("accuracy", "accuracy_own", "ap_generated", "ap_real"),
            "Percent: accuracy where 5 % of the photographs are flagged / accuracy at the detector's own threshold (a "
            "trained network's logit 0; a dash for one-class scores) / AP with generated as positive / AP with real as "
            f"positive, the paper's convention. Both classes have equal weights. {marked}",
        ),
        table_matrix(
            report,
            condition,
            f"Detection at {' and '.join(f'{100 * rate:g} %' for rate in RATES)} false alarms",
            tuple(f"tpr_{rate:g}" for rate in RATES),
            "Percent of generated faces flagged where this share of these photographs is flagged. A dash: too few "
            f"photographs for the rate. {marked}",
        ),
    ]


def table_details(report: Mapping[str, Any], condition: str) -> Table:
    """Return every figure with its interval, one row for each detector and generator."""
    return Table(
        title="Every figure with its interval",
        note="Shares between 0 and 1.",
        head=("detector", "generator", "faces", *FIGURES.values()),
        rows=[
            (name, generator, str(rates["auc"]["count"]), *(describe_rate(rates[figure]) for figure in FIGURES))
            for name, row in report["results"][condition].items()
            for generator, rates in [*row["generators"].items(), ("mean", row["mean"])]
        ],
    )


def table_costs(report: Mapping[str, Any]) -> Table:
    """Return what each detector is, its speed and its memory."""
    return Table(
        title="The detectors, their speed and their memory",
        note=(
            "Measured during this comparison, on this machine and under its load; in the detector with its own "
            "preprocessing, without detection and decoding. Memory: the peak of the process above what it had before "
            "the detector was opened; the first detector also loads shared packages. 0: unknown."
        ),
        head=(
            "detector",
            "what it is",
            "parameters",
            "faces/s",
            "s for 1,000 faces",
            "peak MB",
            "GPU MB",
            "trained on",
        ),
        rows=[
            (
                name,
                ", ".join(filter(None, [row["publication"], row["kind"]])),
                DASH if row["parameters"] is None else f"{row['parameters']:,}",
                f"{row['faces_per_second']:.1f}",
                f"{row['seconds_for_1000_faces']:.0f}",
                str(row["peak_mb"]),
                str(row["device_peak_mb"]),
                row["trained_on"] or "no generated picture",
            )
            for name, row in report["detectors"].items()
        ],
    )


def table_conditions(report: Mapping[str, Any]) -> Table:
    """Return the mean AUC of each detector under each condition."""
    results = report["results"]
    return Table(
        title="Mean AUC by copy",
        note=(
            "Over generators, with 95 % intervals. Left out: faces that became too small to be scored, and generators "
            "of which none remains; the mean of the others cannot be compared with that of all."
        ),
        head=("copy", "left out", *report["detectors"]),
        rows=[
            (
                condition,
                ", ".join([str(report["conditions"][condition]["left_out"]), *list_lost(report, condition)]),
                *(describe_rate(row["mean"].get("auc")) for row in rows.values()),
            )
            for condition, rows in results.items()
        ],
    )


def list_lost(report: Mapping[str, Any], condition: str) -> list[str]:
    """Return the generators of which no face remains under a condition."""
    kept = set[str]().union(*(row["generators"] for row in report["results"][condition].values()))
    return [name for name in report["faces"]["generated"] if name not in kept]


def list_fusion_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the fusion of the one-class score with each other detector, by condition."""
    rate = f"{100 * RATE:g} %"
    return [
        Table(
            title=f"Fusion, {'in one format' if condition == EQUALISED else condition}",
            note=(
                f"False alarms and detection at p <= {RATE:g} are those that a "
                "deployment would have on unseen sources; matched: the threshold flags this share of these very "
                "photographs, so that rows are comparable. Gain: matched, over the better of the two alone, by paired "
                "draws. A dash: too few photographs for the rate."
            ),
            head=("with", "by", "unseen faces", f"false alarms at {rate}", f"detected at {rate}", "matched", "gain"),
            rows=[
                (
                    fusion["detector"],
                    row["name"],
                    f"{fusion['unseen_faces']} of {fusion['unseen_sources']} sources",
                    describe_share(row["false_alarms"]),
                    percent(row["flagged"]),
                    describe_share(row["tpr"]),
                    describe_rate(row["gain"]) + (" helps" if row["helps"] else ""),
                )
                for fusion in fusions
                for row in fusion["rows"]
            ],
        )
        for condition, fusions in report["fusion"]["conditions"].items()
    ]


def any_trained(report: Mapping[str, Any]) -> bool:
    """Return whether a detector was trained on a compared generator."""
    generators = set(report["faces"]["generated"])
    return any(generators & set(row["training"]) for row in report["detectors"].values())


def list_limits(report: Mapping[str, Any]) -> list[str]:
    """Return what this comparison can and cannot show, in sentences."""
    real, generated = report["faces"]["photographs"], report["faces"]["generated"]
    clear = [name for name, rows in report["verdicts"].items() if any(verdict["clears"] for verdict in rows.values())]
    kinds = "generator" if len(generated) == 1 else "generators"
    shown = (
        "It shows how these detectors, with these weights, rank these faces: all get the same windows of the same "
        f"pictures, {real['faces']} faces of {real['sources']} sources of photographs and "
        f"{sum(row['faces'] for row in generated.values())} of {len(generated)} {kinds}."
    )
    cleared = (
        f"Detectors with a generator that clears its control (the whole interval of the AUC above {MIN_AUC} and above "
        f"the control's 90 %, as stored and in one format): {', '.join(clear) or 'none'}."
    )
    formats = (
        "As stored, file format, size and sharpness can separate the classes. One format removes these, but not "
        "content: the photographs and the pictures of a generator show other people, poses and light."
    )
    trained = (
        "It cannot rank the published methods: a detector that was trained here saw fewer pictures and steps than its "
        "publication's. Its row shows this training. On the generator that it was trained on, it has an advantage; "
        "only the other generators show what it generalises."
    )
    sentences = [
        shown,
        cleared,
        formats,
        "It cannot show how a detector ranks generators or cameras that are not here.",
        trained,
        "Figures of the paper are of other photographs and other generated pictures.",
        "No generated picture was used to train, fit, calibrate or choose the one-class detectors.",
    ]
    sentences += [f"{name}: {note}." for name, row in report["detectors"].items() for note in row["notes"]]
    if real["sources"] < MIN_SOURCES:
        sentences.append(
            f"With {real['sources']} of the {MIN_SOURCES} sources that are needed, intervals draw photographs and not "
            "sources: they are too narrow for photographs of a new source."
        )
    if few := [name for name, row in generated.items() if row["faces"] < MANY_FACES]:
        sentences.append(f"Fewer than {MANY_FACES} faces, so that one face is over a point: {', '.join(few)}.")
    return sentences


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    """Write the page of a report.

    Raises:
        OSError: the disk is full.
    """
    with_curves = any(name not in {AS_STORED, EQUALISED} for name in report["results"])
    figures = {"aucs": draw_aucs(report)} | ({"curves": draw_curves(report)} if with_curves else {})
    page = (
        open_templates(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            report=report,
            limits=list_limits(report),
            control=table_control(report),
            formats={
                heading: (list_matrices(report, condition), table_details(report, condition))
                for heading, condition in (("As stored", AS_STORED), ("In one format", EQUALISED))
            },
            costs=table_costs(report),
            copies=table_conditions(report) if with_curves else None,
            fusions=zip(report["fusion"]["verdicts"].values(), list_fusion_tables(report), strict=True),
            published=[
                table_published("Table I", "Accuracy / average precision", join_columns(ACCURACY, PRECISION)),
                table_published("Table II", "AUC", AUC),
            ],
            figures={name: inline_svg(svg, name) for name, svg in figures.items()},
            curves=", ".join(CURVES),
        )
    )
    replace_file(path, page.encode())
