"""The report: the figures of all parts in one JSON file, a page of it, and the page's first table on the terminal."""

import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from machine import SAMPLED
from part import ASKED

ROOT = Path(__file__).resolve().parent.parent.parent
CPU_BANNER = r"""
  ██████  ██████  ██    ██    DEVICE: CPU. NOTHING RAN ON A GPU.
 ██       ██   ██ ██    ██    This was a rehearsal with small sizes:
 ██       ██████  ██    ██    it shows that the parts run, and nothing about a GPU.
 ██       ██      ██    ██
  ██████  ██       ██████
"""
Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the first table, as text."""

    part: str
    name: str
    asked: str
    verdict: str
    measured: str = ""
    ceiling: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Rates of one part in one unit: (name, text, share of the highest, whether it has a ceiling among the others)."""

    part: str
    title: str
    bars: tuple[tuple[str, str, float, bool], ...]


def strip_paths(text: str, places: Sequence[Path] = ()) -> str:
    """Return `text` without the paths of the machine that it was written on: reports are committed."""
    for stream, name in ((ROOT, "."), *((stream, "<packages>") for stream in places), (Path(sys.prefix), "<python>")):
        text = text.replace(str(stream), name)
    return re.sub(r"/(?:root|home|work)/[^\s\"':,)]*/", "~/", text)


def explain(section: Mapping[str, Any]) -> str:
    """Return why a part has not all of its figures, or ""."""
    status, code, tail = section["status"], section["exit_code"], section.get("output_tail")
    if status == "timed_out":
        return f"stopped at its limit of {section['box_s']:.0f} s"
    if status == "failed" and code < 0:
        return f"ended by {signal.Signals(-code).name}"
    if status == "failed":
        return f"ended with {code}: {tail[-1] if tail else 'it printed nothing'}"
    return "; ".join(section["troubles"]) if status == "partly" else "" if status == "ok" else status


def list_rows(report: Report) -> list[Row]:
    """Return a row for each figure of `ASKED` and each other one with a bound, in the order of the parts."""
    rows = []
    for part in report["planned"]:
        section = report["parts"].get(part)
        figures = {figure["name"]: figure for figure in section["figures"]} if section else {}
        asked = {each.name: f"{each.bound} {each.unit}" if each.bound else "" for each in ASKED if each.part == part}
        for name, figure in figures.items():
            if figure["asked"]:
                asked.setdefault(name, f"{figure['asked']} {figure['unit']}")
        missing = explain(section) or "the part gave no such figure" if section else "the run ended before"
        for name, bound in asked.items():
            if report["device"] == "cpu":
                rows.append(Row(part, name, bound, "not measured", reason="needs a GPU"))
            elif name not in figures:
                notes = section["notes"] if section else ()
                reason = next((note for note in notes if note.startswith(name)), missing)
                rows.append(Row(part, name, bound, "not measured", reason=reason))
            else:
                rows.append(judge(part, bound, figures[name]))
    return rows


def judge(part: str, bound: str, figure: Mapping[str, Any]) -> Row:
    """Return the row of a figure that was measured on a GPU."""
    name = figure["name"]
    if not is_number(figure["value"]):
        return Row(part, name, bound, "missed" if bound else "not measured", reason="the part gave no number")
    verdict = {None: "measured", True: "met", False: "missed"}[figure["met"]]
    ceiling = "" if figure["ceiling"] is None else show_value(figure, "ceiling")
    return Row(part, name, bound, verdict, show_value(figure), ceiling)


def list_charts(report: Report) -> Iterator[Chart]:
    """Yield a chart for figures of a part that have one unit of a rate and the same words before a colon."""

    def group(figure: Mapping[str, Any]) -> tuple[str, str]:
        return figure["name"].partition(": ")[0] if ": " in figure["name"] else "", figure["unit"]

    for part, section in report["parts"].items():
        rates = [each for each in section["figures"] if each["unit"].endswith("/s") and is_number(each["value"])]
        for (title, unit), some in groupby(sorted(rates, key=group), group):
            figures = list(some)
            highest = max(figure["value"] for figure in figures)
            if len(figures) > 1 and highest > 0:
                names = (figure["name"].removeprefix(f"{title}: ") for figure in figures)
                bars = [
                    (
                        name,
                        show_value(figure).removesuffix(unit),
                        figure["value"] / highest,
                        figure["ceiling"] is not None,
                    )
                    for name, figure in zip(names, figures, strict=True)
                ]
                yield Chart(part, unit if title in {"", part} else f"{title}, {unit}", tuple(bars))


def write_page(report: Report, path: Path, running: str = "") -> None:
    """Write the report as one self-contained page; `running` is the part that has begun and not ended.

    Raises:
        ImportError: Jinja2, which PyTorch requires, is not installed.
    """
    from scorer.archive.report.page import render_page  # noqa: PLC0415 - a report must not depend on a page

    rows = list_rows(report)
    page = render_page(
        "report.html",
        Path(__file__).parent,
        report=report,
        rows=rows,
        counts=Counter(row.verdict for row in rows),
        charts=list(list_charts(report)),
        open_charts=("end_to_end", "jobs"),
        running=running,
        sampled=list(SAMPLED.values()),
        versions={name: found for part in report["parts"].values() for name, found in part["versions"].items()},
        explain=explain,
        show_value=show_value,
    )
    draft = path.with_suffix(".draft")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)


def format_report(report: Report) -> str:
    """Return the banner, the parts and the first table for a terminal."""
    lines = [CPU_BANNER] if report["device"] == "cpu" else []
    for name, section in report["parts"].items():
        outcome = explain(section) or section["status"]
        lines.append(f"{name:18} {section['seconds']:4.0f} of {section['box_s']:3.0f} s  {outcome}")
    lines.append("")
    for row in list_rows(report):
        found = f"{row.measured} of {row.ceiling}" if row.ceiling else row.measured or row.reason
        lines.append(f"{row.part:14} {row.name:58.58} {row.asked or '-':16} {row.verdict:13} {found}")
    return "\n".join(lines)


def show_value(figure: Mapping[str, Any], key: str = "value") -> str:
    """Return a number of the figure with its unit, in significant digits."""
    value = figure[key]
    if not is_number(value):
        return "no number"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {figure['unit']}".strip()


def is_number(value: float | None) -> bool:
    """Return whether a value of a report is a number; NaN is null in the file."""
    return value is not None and value == value  # noqa: PLR0124 - NaN differs from itself
