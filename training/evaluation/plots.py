"""The charts of an evaluation as SVG text; curves differ in colour and in dash or marker.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish. Text is not converted to paths.
Everything except curves and generators has the colour `INK`, which a page can replace for a dark theme.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from training.evaluation.measures import LogLikelihoods, auc, roc_curve

INK = "#333231"  # a unique grey, so that a replacement affects nothing else
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
WIDTH_IN = 4.4  # text of 10 points is then 11 px high on a phone with a width of 358 px
ROBUSTNESS_WIDTH_IN = 7.4  # two panels and the conditions' names; a phone scrolls it
BINS = 30
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unlensed",  # the same figure has the same ids every time
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}


def colour(index: int) -> str:
    """Return the colour of the generator at `index`."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> Any:  # noqa: ANN401 - matplotlib takes a name or a tuple
    """Return the dashes of the generator at `index`; colours and dashes together repeat after 30."""
    return DASHES[index % len(DASHES)]


def write_svg(figure: Figure) -> str:
    """Return the figure as SVG text."""
    buffer = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def square_axes(title: str, x_label: str, y_label: str, legend_rows: int) -> tuple[Figure, Any]:
    """Return a figure with two axes from 0 to 1, with space for a legend below."""
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN + 0.5 + 0.22 * legend_rows), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", title=title, xlabel=x_label, ylabel=y_label)
    return figure, axes


def split_photographs(p_values: Mapping[str, LogLikelihoods]) -> tuple[LogLikelihoods, dict[str, LogLikelihoods]]:
    """Return the values of photographs, whose name is empty, and those of each generator."""
    return p_values[""], {name: values for name, values in p_values.items() if name}


@mpl.rc_context(STYLE)
def draw_roc(p_values: Mapping[str, LogLikelihoods]) -> str:
    """Draw the detection rate against the false-alarm rate; p-values by generator, "" is photographs."""
    photographs, generated = split_photographs(p_values)
    figure, axes = square_axes(
        "Receiver operating characteristic",
        "photographs flagged (share)",
        "generated faces flagged (share)",
        len(generated),
    )
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    axes.annotate("chance", (0.7, 0.62), color=INK)
    for rate in (0.01, 0.05):
        axes.axvline(rate, color=INK, linewidth=0.8, linestyle=":")
    for index, (name, values) in enumerate(generated.items()):
        alarms, found = roc_curve(photographs, values)
        label = f"{name} (AUC {auc(photographs, values):.2f})"
        axes.plot(alarms, found, color=colour(index), linestyle=dash(index), drawstyle="steps-post", label=label)
    figure.legend(loc="outside lower center")
    return write_svg(figure)


@mpl.rc_context(STYLE)
def draw_precision_recall(p_values: Mapping[str, LogLikelihoods]) -> str:
    """Draw the precision against the recall of generated faces, for equal class weights."""
    photographs, generated = split_photographs(p_values)
    figure, axes = square_axes(
        "Precision and recall,\nas if one face in two were generated",
        "generated faces flagged (recall, share)",
        "generated among flagged (precision, share)",
        len(generated),
    )
    axes.axhline(0.5, color=INK, linewidth=0.8)
    axes.annotate("chance", (0.02, 0.455), color=INK)
    for index, (name, values) in enumerate(generated.items()):
        alarms, found = roc_curve(photographs, values)
        alarms, found = alarms[found > 0], found[found > 0]
        axes.plot(found, found / (found + alarms), color=colour(index), linestyle=dash(index), label=name)
    figure.legend(loc="outside lower center")
    return write_svg(figure)


@mpl.rc_context(STYLE)
def draw_histograms(
    photographs: LogLikelihoods, generated: Mapping[str, LogLikelihoods], thresholds_nats: Mapping[str, float]
) -> str:
    """Draw one panel for each generator: its log-likelihoods and the photographs', with the thresholds."""
    columns = min(2, len(generated))
    rows = -(-len(generated) // columns)
    figure = Figure(figsize=(WIDTH_IN, 1 + 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    everything = np.concatenate([photographs, *generated.values()])
    low, high = np.quantile(everything, 0.01), everything.max()
    edges = np.linspace(low, high, BINS + 1)
    for index, (axes, (name, values)) in enumerate(zip(panels.flat, generated.items(), strict=False)):
        for sample, label, style in (
            (photographs, "photographs", {"color": INK, "alpha": 0.35}),
            (values, name, {"edgecolor": colour(index), "linewidth": 1.8, "histtype": "step"}),
        ):
            # Values left of the axis are counted in the first bin.
            weights = np.full(len(sample), 1 / len(sample))
            axes.hist(np.clip(sample, low, high), edges, weights=weights, label=label, **style)
        for (label, threshold), line in zip(thresholds_nats.items(), (":", "--", "-."), strict=False):
            axes.axvline(max(threshold, low), color=INK, linewidth=1, linestyle=line, label=label)
        axes.set_title(name, color=INK)
    for axes in panels.flat[len(generated) :]:
        axes.set_axis_off()
    handles, labels = panels.flat[0].get_legend_handles_labels()
    labels[labels.index(next(iter(generated)))] = "generated"
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    figure.supxlabel("log-likelihood (nats; the first bin contains the lowest 1 %)", fontsize=10)
    figure.supylabel("share of faces", fontsize=10)
    return write_svg(figure)


@mpl.rc_context(STYLE)
def draw_features(features_ND: NDArray[np.float32], classes: NDArray[np.str_]) -> str:
    """Draw a t-SNE chart of features, as in the paper's Fig. 5; the class "" is photographs."""
    perplexity = min(30.0, (len(features_ND) - 1) / 3)
    points = TSNE(n_components=2, perplexity=perplexity, random_state=42).fit_transform(features_ND)
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN + 0.22 * len(set(classes.tolist()))), layout="constrained")
    axes = figure.subplots()
    names = [name for name in dict.fromkeys(classes.tolist()) if name]
    real = points[classes == ""]
    axes.scatter(real[:, 0], real[:, 1], s=16, color=INK, alpha=0.45, linewidths=0, label="photographs")
    for index, name in enumerate(names):
        marker = MARKERS[index % len(MARKERS)]
        chosen = points[classes == name]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=26, color=colour(index), marker=marker, linewidths=0, label=name)
    axes.set(
        title="t-SNE of the features", xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[]
    )
    figure.legend(loc="outside lower center")
    return write_svg(figure)


@mpl.rc_context(STYLE)
def draw_robustness(entries: Sequence[Mapping[str, Any]]) -> str:
    """Draw the AUCs and the measured false-alarm rate of each condition, one line for each."""
    labels = [entry["name"] for entry in entries]
    rows = np.arange(len(entries))
    figure = Figure(figsize=(ROBUSTNESS_WIDTH_IN, 1.6 + 0.24 * len(entries)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for index, name in enumerate(entries[0]["auc"]):
        values = [entry["auc"].get(name, np.nan) for entry in entries]
        marker = MARKERS[index % len(MARKERS)]
        left.plot(values, rows, color=colour(index), marker=marker, markersize=5, linestyle="none", label=name)
    left.axvline(0.5, color=INK, linewidth=0.8)
    left.set(xlabel="AUC (0.5 is chance)", yticks=rows, yticklabels=labels, ylim=(len(entries) - 0.5, -0.5))
    for row, entry in zip(rows, entries, strict=True):
        rate = next(iter(entry["false_alarms"].values()))
        if rate is not None:
            right.plot([100 * rate["low"], 100 * rate["high"]], [row, row], color=INK, linewidth=1.2)
            right.plot(100 * rate["value"], row, color=INK, marker="o", markersize=5)
    right.axvline(5, color=COLOURS[1], linewidth=1.2, linestyle="--", label="target 5 %")
    right.set(xlabel="photographs flagged (%)")
    right.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=3)
    return write_svg(figure)


@mpl.rc_context(STYLE)
def draw_components(rows: Mapping[str, Mapping[str, Any]], deployed: int) -> str:
    """Draw accuracy, average precision and AUC over the number of components, as in the paper's Fig. 4."""
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for index, (name, label) in enumerate(
        (("accuracy", "accuracy"), ("average_precision", "average precision"), ("auc", "AUC"))
    ):
        values = [100 * row["average"][name] for row in rows.values()]
        axes.plot(places, values, color=colour(index), linestyle=dash(index), marker=MARKERS[index], label=label)
    axes.axvline(list(rows).index(str(deployed)), color=INK, linewidth=1, linestyle=":", label="deployed")
    axes.set(
        title="Number of components of the mixture",
        xlabel="components K",
        ylabel="average over generators (%)",
        xticks=places,
        xticklabels=list(rows),
    )
    figure.legend(loc="outside lower center", ncols=2)
    return write_svg(figure)
