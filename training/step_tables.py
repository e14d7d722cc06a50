"""The reports of `fit` and `calibrate` as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def print_fit(summary: Mapping[str, Any], console: Console) -> None:
    """Print the candidates with their held-out results, the chosen one, and the notes of `fit.json`."""
    chosen = f"{'+'.join(summary['roles'])} {summary['shape']}"
    if summary["held_out_nats"]:
        table = Table("", "mixture", box=SIMPLE_HEAD)
        for name in ("nats", "below 5 %"):
            table.add_column(f"held-out {name}", justify="right")
        for name, nats in summary["held_out_nats"].items():
            alarms = summary["held_out_alarms"][name]
            table.add_row("->" if name == chosen else "", name, f"{nats:.2f}", f"{alarms:.1%}")
        console.print(table)
        for name, reason in summary["refused"].items():
            console.print(f"refused: {name}: {reason}", soft_wrap=True)
        console.print(
            f"Each {summary['held_out_by']} of the role fit was left out once; the largest mean log-likelihood wins. "
            '"below 5 %": share of the left-out faces under the 5th percentile of the fitted ones.',
            soft_wrap=True,
        )
    console.print(
        f"mixture: {chosen}, {summary['faces']} faces with {summary['copies_of_each_face']} copies each, "
        f"{summary['iterations']} iterations in {summary['seconds']:g} s ({summary['device']}); "
        f"engine {summary['precision']}",
        soft_wrap=True,
    )
    if len(summary["faces_by_component"]) > 1:
        console.print(f"faces by component: {', '.join(f'{count:g}' for count in summary['faces_by_component'])}")
    console.print(summary["selection"], soft_wrap=True)
    for note in summary["notes"]:
        console.print(f"warning: {note}", style="yellow", soft_wrap=True)


def print_calibration(report: Mapping[str, Any], console: Console) -> None:
    """Print each false-alarm rate with its threshold and intervals, or why it is refused."""
    table = Table("target rate", box=SIMPLE_HEAD)
    interval = f"{100 * report['confidence']:g} % interval"
    for name in ("threshold (nats)", interval, "true rate, " + interval):
        table.add_column(name, justify="right")
    for rate, row in report["thresholds"].items():
        table.add_row(
            f"{100 * float(rate):g} %",
            f"{row['nats']:.1f}",
            f"{row['nats_low']:.1f} to {row['nats_high']:.1f}",
            f"{100 * row['rate_low']:.2g} to {100 * row['rate_high']:.2g} %",
        )
    if report["thresholds"]:
        console.print(table)
    for reason in report["refused"].values():
        console.print(f"refused: {reason}", soft_wrap=True)
    console.print(
        f"{report['faces']} faces of {report['photographs']} photographs. {report['assumption']}", soft_wrap=True
    )
