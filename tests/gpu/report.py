"""The report: the figures of all parts in one JSON file, and a table of required and measured figures."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_JUDGED = "not judged on a CPU"
CPU_BANNER = r"""
  ██████  ██████  ██    ██    DEVICE: CPU. This was a rehearsal with small sizes:
 ██       ██   ██ ██    ██    it shows that the parts run, and nothing about a GPU.
 ██       ██████  ██    ██
 ██       ██      ██    ██
  ██████  ██       ██████
"""


def strip_paths(text: str, places: Sequence[Path] = ()) -> str:
    """Return `text` without the paths of the machine that it was written on: reports are committed."""
    for stream, name in ((ROOT, "."), *((stream, "<packages>") for stream in places), (Path(sys.prefix), "<python>")):
        text = text.replace(str(stream), name)
    return re.sub(r"/(?:root|home|work)/[^\s\"':,)]*/", "~/", text)


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the banner, the machine and one row for each figure."""
    on_cpu = report["device"] == "cpu"
    if on_cpu:
        console.print(Text(CPU_BANNER, style="bold yellow"))
    machine = report["machine"]
    gpus = ", ".join(gpu.get("name", "?") for gpu in machine["gpus"]) or "no GPU"
    console.print(
        f"device [bold]{report['device']}[/]: {report['reason']}\n{gpus}; {machine['cpu']}, {machine['cores']} cores; "
        f"commit {report['commit'][:12]}; {report['began']}; {report['seconds']:.0f} s"
    )
    table = Table("part", "figure", "asked", "measured", "met")
    for name, part in report["parts"].items():
        status = Text(part["status"], style="green" if part["status"] == "ok" else "bold red")
        title = f"{name} ({part['seconds']:.0f} of {part['box_s']:.0f} s)"
        table.add_row(title, status, "", "", "")
        for figure in part["figures"]:
            table.add_row("", figure["name"], figure["asked"] or "", show_value(figure), judge(figure, on_cpu=on_cpu))
        for trouble in part["troubles"]:
            table.add_row("", Text(trouble, style="red"), "", "", "")
        table.add_section()
    console.print(table)


def show_value(figure: Mapping[str, Any]) -> str:
    """Return the number with its unit, in significant digits."""
    value = figure["value"]
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {figure['unit']}"


def judge(figure: Mapping[str, Any], *, on_cpu: bool) -> Text:
    """Return whether the figure meets its bound."""
    if figure["met"] is None:
        return Text("")
    if on_cpu:
        return Text(NOT_JUDGED, style="yellow")
    return Text("met", style="green") if figure["met"] else Text("MISSED", style="bold red")
