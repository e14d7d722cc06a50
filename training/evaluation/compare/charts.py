"""The charts of a comparison as SVG text."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from training.evaluation.compare.conditions import CURVES
from training.evaluation.plots import INK, MARKERS, ROBUSTNESS_WIDTH_IN, STYLE, colour, dash, write_svg
from training.evaluation.robustness import AS_STORED, EQUALISED

CONTROL_HEIGHT = 0.34  # of the control's bar, in rows


@mpl.rc_context(STYLE)
def draw_aucs(report: Mapping[str, Any]) -> str:
    """Draw, for each detector, the AUC of each generator over the control, as stored and in one format."""
    names = list(report["detectors"])
    rows = np.arange(len(names))
    generators = list(report["faces"]["generated"])
    height = 1.4 + 0.3 * len(names) + 0.11 * len(generators)
    figure = Figure(figsize=(ROBUSTNESS_WIDTH_IN, height), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, condition, title in zip(panels, (AS_STORED, EQUALISED), ("as stored", "one format"), strict=True):
        for row, name in zip(rows, names, strict=True):
            control = report["control"][condition][name]
            if control:
                label = "control, 10 to 90 %" if row == 0 else None
                width = control["high"] - control["low"]
                axes.barh(row, width, CONTROL_HEIGHT, control["low"], color=INK, alpha=0.25, label=label)
        for index, generator in enumerate(generators):
            values = [report["results"][condition][name]["generators"].get(generator, {}).get("auc") for name in names]
            axes.plot(
                [each["value"] if each else np.nan for each in values],
                rows,
                color=colour(index),
                marker=MARKERS[index % len(MARKERS)],
                markersize=5,
                linestyle="none",
                label=generator,
            )
        axes.axvline(0.5, color=INK, linewidth=0.8)
        axes.set(title=title, xlabel="AUC (0.5 is chance)", yticks=rows, yticklabels=names)
        axes.set_ylim(len(names) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return write_svg(figure)


@mpl.rc_context(STYLE)
def draw_curves(report: Mapping[str, Any]) -> str:
    """Draw the mean AUC of each detector over the strength of each change."""
    figure = Figure(figsize=(ROBUSTNESS_WIDTH_IN, 5 + 0.08 * len(report["detectors"])), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for axes, (title, points) in zip(panels.flat, CURVES.items(), strict=True):
        places = np.arange(len(points))
        for index, name in enumerate(report["detectors"]):
            means = [
                report["results"].get(condition, {}).get(name, {}).get("mean", {}) for condition in points.values()
            ]
            values = [mean["auc"]["value"] if mean.get("auc") else np.nan for mean in means]
            marker = MARKERS[index % len(MARKERS)]
            axes.plot(places, values, color=colour(index), linestyle=dash(index), marker=marker, label=name)
        axes.axhline(0.5, color=INK, linewidth=0.8)
        axes.set(xlabel=title, xticks=places, xticklabels=list(points))
        axes.margins(x=0.1)
    for axes in panels[:, 0]:
        axes.set_ylabel("mean AUC over generators")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return write_svg(figure)
