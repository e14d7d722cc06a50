"""The table of processed copies, the paper's Tables I to III and Fig. 4, and what was published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from scorer.meaning import explain_flag, explain_pass
from training.evaluation.operating_points import MIN_CONTROL_FACES, RATES
from training.evaluation.published import ACCURACY, AUC, FOLLOW_UP, GENERATORS, PAPER, PRECISION, Published
from training.evaluation.robustness import EQUAL_PX
from training.evaluation.stated import state_evaluation

DASH = "-"
FIGURES = ("accuracy", "average_precision", "auc")
FIGURE_HEADS = ("Acc", "AP", "AUC")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: title, note, column heads and rows; the first column is words.

    Attributes:
        on_terminal: whether a terminal shows it too; the report shows every table.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    on_terminal: bool = True


def percent(share: float | None) -> str:
    """Return a share in percent with two decimals, as in the paper."""
    return DASH if share is None else f"{100 * share:.2f}"


def outcome_cells(outcome: dict[str, Any]) -> tuple[str, ...]:
    """Return accuracy, AP and AUC of one outcome."""
    return tuple(percent(outcome[name]) for name in FIGURES)


def published_row(row: Published, *between: str) -> tuple[str, ...]:
    """Return a row of published figures."""
    values = (getattr(row, name) for name in FIGURES)
    return (f"published: {row.method}", *between, *(DASH if value is None else f"{value:.2f}" for value in values))


def table_generators(report: dict[str, Any]) -> Table:
    """Return Table I: each generator under the paper's protocol."""
    comparable = report["comparable"]
    generators = comparable["generators"]
    origin = "photographs of the mixture" if comparable["threshold_on"] == "train" else "held-out photographs"
    part = "face" if comparable["test_crop"] == "face" else "whole picture"
    return Table(
        title="Table I: generators under the paper's protocol",
        note=(
            f"N faces of each class, drawn once; the {part} of each picture; AP counts photographs as positive. "
            f"Threshold {comparable['threshold_nats']:.1f} nats, the 5th percentile of the {origin}. "
            "The published averages are over other generators and CelebA-HQ. "
            f"Sources: {PAPER.source}; {FOLLOW_UP.source}."
        ),
        head=("generator", "N", *FIGURE_HEADS),
        rows=[
            *((name, str(row["count"]), *outcome_cells(row)) for name, row in generators.items()),
            (f"average of {len(generators)}", DASH, *outcome_cells(comparable["average"])),
            published_row(PAPER, DASH),
            published_row(FOLLOW_UP, DASH),
        ],
    )


def table_features(report: dict[str, Any]) -> Table:
    """Return Table II: the AUC of our features and of others by generator, under the same rule of the mixture."""
    compared = {"ours": report["comparable"], **report["features"]}

    def cells(name: str | None) -> tuple[str, ...]:
        return tuple(percent((row["generators"][name] if name else row["average"])["auc"]) for row in compared.values())

    generators = report["comparable"]["generators"]
    return Table(
        title="Table II: AUC of features, by generator",
        note="Percent. Each kind of features has its own mixture by the same rule.",
        head=("generator", *compared),
        rows=[
            *((name, *cells(name)) for name in generators),
            (f"average of {len(generators)}", *cells(None)),
        ],
    )


def table_published(title: str, note: str, columns: Mapping[str, tuple[str, ...]]) -> Table:
    """Return a table of the paper as it was published, a row for each generator."""
    return Table(
        title=f"{title}, as published",
        note=(
            f'{note}, in percent; "Ours" is the paper\'s method. Not measured here: other photographs and other '
            f"generated pictures than in the tables above. Source: {PAPER.source}."
        ),
        head=("generator", *columns),
        rows=[(name, *(cells[row] for cells in columns.values())) for row, name in enumerate(GENERATORS)],
        on_terminal=False,
    )


def join_columns(
    first: Mapping[str, tuple[str, ...]], second: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return columns whose cells contain those of both."""
    return {name: tuple(map(" / ".join, zip(cells, second[name], strict=True))) for name, cells in first.items()}


def table_components(report: dict[str, Any]) -> Table:
    """Return the numbers of Fig. 4: each number of components, how it was judged, and its averages."""
    return Table(
        title="Fig. 4: number of components",
        note=(
            f"Deployed: {report['run']['mixture']}. Chosen by the mean log-likelihood of held-out photographs of the "
            'role fit; "below 5 %" is the share of these under the 5th percentile of the fitted ones. Accuracy, AP and '
            "AUC are averages over the generators: they are shown and were not used to choose."
        ),
        head=("K", "mixture", "held-out nats", "below 5 %", *FIGURE_HEADS),
        rows=[
            (
                count,
                row["candidate"],
                f"{row['held_out_nats']:.1f}",
                f"{row['held_out_alarms']:.1%}",
                *outcome_cells(row["average"]),
            )
            for count, row in report["components"].items()
        ],
    )


def table_ablations(report: dict[str, Any]) -> Table:
    """Return Table III: the effect of the pretext tasks and of the number of components, one row for each run."""
    rows = {"this run": {"run": report["run"], "comparable": report["comparable"]}, **report["ablations"]}
    return Table(
        title="Table III: pretext tasks and components",
        note="Averages over each run's generators.",
        head=("run", "recipe", "tasks", "mixture", *FIGURE_HEADS),
        rows=[
            *(
                (
                    name,
                    row["run"]["recipe"],
                    row["run"]["tasks"],
                    row["run"]["mixture"],
                    *outcome_cells(row["comparable"]["average"]),
                )
                for name, row in rows.items()
            ),
            published_row(PAPER, "paper", "EXIF and face", "full K=8"),
        ],
    )


def table_robustness(report: dict[str, Any]) -> Table:
    """Return the figures of faces that were processed in one way, beside the control of photographs."""
    run = report["run"]
    return Table(
        title="Processed copies, p-values as served",
        note=(
            f"Means over generators. Both classes are processed alike: face at most {EQUAL_PX} px, except as stored. "
            "Screenshot: the JPEG 90 copy shown at three quarters, kept as PNG. Control: AUC of one source of "
            f"photographs against the others, 10 / 50 / 90 % over sources of at least {MIN_CONTROL_FACES} faces. "
            f"Intervals are 95 %, by {run['intervals_by']} of {run['test_sources']} sources. Left out: faces that "
            "became too small to be scored."
        ),
        head=(
            "copy",
            "mean AUC",
            "lowest AUC",
            "control",
            *(f"flagged at {100 * rate:g} %" for rate in RATES),
            *(f"false alarms at {100 * rate:g} %" for rate in RATES),
            "left out",
        ),
        rows=[list_robustness_cells(row) for row in report["robustness"]],
    )


def list_robustness_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one kind of copy."""
    mean, lowest, control = row["mean_auc"], row["lowest"], row["control"]
    return (
        row["name"],
        f"{mean['value']:.2f} ({mean['low']:.2f} to {mean['high']:.2f})" if mean else DASH,
        f"{lowest['auc']:.2f} ({lowest['name']})" if lowest else DASH,
        f"{control['low']:.2f} / {control['median']:.2f} / {control['high']:.2f}" if control else DASH,
        *(DASH if share is None else f"{100 * share:.0f} %" for share in row["flagged"].values()),
        *map(describe_share, row["false_alarms"].values()),
        str(row["left_out"]),
    )


def describe_share(rate: dict[str, Any] | None) -> str:
    """Return a share in percent with its interval."""
    return (
        DASH if rate is None else f"{100 * rate['value']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
    )


def list_tables(report: dict[str, Any]) -> list[Table]:
    """Return the table of copies, the paper's tables for which there are figures, and Tables I and II as published."""
    tables = [
        table_robustness(report),
        table_generators(report),
        table_published("Table I", "Accuracy / average precision", join_columns(ACCURACY, PRECISION)),
        table_features(report),
        table_published("Table II", "AUC", AUC),
    ]
    if report["ablations"]:
        tables.append(table_ablations(report))
    if report["components"]:
        tables.append(table_components(report))
    return tables


def print_tables(report: dict[str, Any], console: Console) -> None:
    """Print the meaning of decisions, the verdict and the tables."""
    stated, rate = state_evaluation(report), RATES[0]
    for sentence in (
        explain_pass(stated, rate),
        explain_flag(stated, rate),
        report["verdict"]["summary"],
        *report["verdict"]["support"],
    ):
        console.print(sentence)
    for table in filter(lambda table: table.on_terminal, list_tables(report)):
        drawn = RichTable(title=table.title, caption=table.note)
        for index, name in enumerate(table.head):
            drawn.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
