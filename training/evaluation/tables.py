"""The paper's Tables I to III from an evaluation's JSON, with our figures and the published ones, in percent."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from scorer.meaning import explain_flag, explain_pass
from training.evaluation.operating_points import RATES
from training.evaluation.published import FOLLOW_UP, PAPER, Published
from training.evaluation.stated import state_evaluation

DASH = "-"
FIGURES = ("accuracy", "average_precision", "auc")
FIGURE_HEADS = ("Acc", "AP", "AUC")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: title, note, column heads and rows; the first column is words."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


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
    """Return Table II: other features under the same protocol and rule of the mixture."""
    return Table(
        title="Table II: features compared",
        note="Averages over the same generators; each kind of features has its own mixture by the same rule.",
        head=("features", *FIGURE_HEADS),
        rows=[
            ("ours", *outcome_cells(report["comparable"]["average"])),
            *((name, *outcome_cells(row["average"])) for name, row in report["features"].items()),
            published_row(PAPER),
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


def list_tables(report: dict[str, Any]) -> list[Table]:
    """Return the paper's tables for which there are figures."""
    tables = [table_generators(report)]
    if report["features"]:
        tables.append(table_features(report))
    if report["ablations"]:
        tables.append(table_ablations(report))
    return tables


def print_tables(report: dict[str, Any], console: Console) -> None:
    """Print the meaning of decisions, the verdict and the tables."""
    stated, rate = state_evaluation(report), RATES[0]
    for sentence in (explain_pass(stated, rate), explain_flag(stated, rate), report["verdict"]["summary"]):
        console.print(sentence)
    for table in list_tables(report):
        drawn = RichTable(title=table.title, caption=table.note)
        for index, name in enumerate(table.head):
            drawn.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
