"""Write `evaluation.html` from `evaluation.json` and the charts: one file without scripts or external resources.

Jinja2 is used instead of string.Template because the report has tables in loops, and because Jinja2 escapes text: the
names of generators are folder names. torch requires it already. The report contains no picture of a face, and numbers
the sources of photographs instead of naming them.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scorer.meaning import explain_flag, explain_pass
from scorer.observe.printable import printable_value
from training.evaluation.evaluate import FigureData
from training.evaluation.measures import LogLikelihoods
from training.evaluation.operating_points import RATES
from training.evaluation.plots import (
    COLOURS,
    INK,
    draw_components,
    draw_features,
    draw_histograms,
    draw_precision_recall,
    draw_robustness,
    draw_roc,
)
from training.evaluation.stated import state_evaluation
from training.evaluation.tables import list_tables

TEMPLATE = "report_template.html"


def pick_thresholds(calibration: LogLikelihoods) -> dict[str, float]:
    """Return the log-likelihood below which a face is flagged, for each rate that the calibration resolves."""
    # The p-value is at most the rate below the held-out face of this rank; 1e-9 corrects 0.01 * 2900 < 29.
    ranks = {rate: math.floor(rate * (len(calibration) + 1) + 1e-9) - 1 for rate in RATES}
    return {f"{100 * rate:g} % threshold": float(calibration[rank]) for rate, rank in ranks.items() if rank >= 0}


def draw_figures(report: Mapping[str, Any], evidence: FigureData) -> dict[str, str]:
    """Return the charts as SVG text by file name."""
    real, generated = evidence.photographs, evidence.generated
    drawn = {
        "roc": draw_roc(evidence.p_values),
        "precision_recall": draw_precision_recall(evidence.p_values),
        "likelihoods": draw_histograms(real, generated, pick_thresholds(evidence.calibration)),
        "robustness": draw_robustness(report["robustness"]),
        "features": draw_features(evidence.features, evidence.classes),
    }
    if report["components"]:
        drawn["components"] = draw_components(report["components"], report["run"]["components"])
    return drawn


def inline_svg(svg: str, name: str) -> Markup:
    """Return SVG text for embedding: without prologue, with unique ids, and with the colours of the page's theme."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = body.replace(INK, "currentColor")
    for index, colour in enumerate(COLOURS):
        body = body.replace(colour, f"var(--c{index})")
    return Markup(body)  # noqa: S704 - matplotlib escapes what it writes


def number_sources(report: Mapping[str, Any]) -> dict[str, str]:
    """Return a number for each source of test photographs, because their names are those of private web sites."""
    sources = report["operating_points"]["flagged"][f"{RATES[0]:g}"]["by_source"]
    return {source: f"real source {index}" for index, source in enumerate(sources, 1)}


def open_templates(*folders: Path) -> Environment:
    """Return the environment of the templates in `folders` and in this one; text is escaped."""
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        finalize=printable_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share, digits=1: "-" if share is None else f"{100 * share:.{digits}f} %"
    return environment


def render_report(report: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Return the page."""
    stated, rate = state_evaluation(report), RATES[0]
    return (
        open_templates()
        .get_template(TEMPLATE)
        .render(
            report=report,
            meanings=(explain_pass(stated, rate), explain_flag(stated, rate)),
            tables=list_tables(dict(report)),
            sources=number_sources(report),
            figures={name: inline_svg(svg, name) for name, svg in figures.items()},
        )
    )


def write_report(run: Path, report: Mapping[str, Any], evidence: FigureData) -> Path:
    """Write `figures/*.svg` and `evaluation.html` into `run`; return the page's path."""
    figures = draw_figures(report, evidence)
    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    for name, svg in figures.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    page = run / "evaluation.html"
    page.write_text(render_report(report, figures), encoding="utf-8")
    return page
