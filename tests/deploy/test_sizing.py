"""The sizing table of deploy/README.md: rows of CPUs from the text above it, that of a GPU from the newest report."""

import json
import math
import re
from pathlib import Path
from typing import Any

RATES, BUSY = (500, 5000), 0.7
STREAM, READ, DECIDED = "stream.*: bytes to p-values", "batches.*: read and probe", "batches.*: decisions and results"


def make_row(report: dict[str, Any] | None) -> str:
    """Return the row of a GPU that scores a stream in the worker's process; without all figures it has words."""
    name, cells, part = "GPU", ["not measured"] * 5, report["parts"].get("end_to_end") if report else None
    figures = {figure["name"]: figure["value"] for figure in part["figures"]} if part else {}
    found = [next((figures[name] for name in figures if re.match(words, name)), 0) for words in (STREAM, READ, DECIDED)]
    if report and part and all(found):
        (scored, read, decided), name = found, report["machine"]["gpus"][0]["name"]
        cells = [f"{1 / (report['machine']['cores'] / read + 1 / decided):,.0f}", f"{scored:,.0f}"]
        cells += [f"{rate / BUSY / scored:.1f} GPUs" for rate in RATES]
        cells.append(f"{part['clocks']['memory_mib']['max']:,.0f} MiB of the GPU")
    return " | ".join([f"| ResNet-50, FP16, {name}", *cells]) + " |"


def test_the_table_is_that_of_the_text_and_of_the_newest_report(root: Path) -> None:
    """Rows of CPUs are computed from core-milliseconds; `make gpu GPU="--save NAME"` saves reports."""
    text = (root / "deploy/README.md").read_text()
    saved = [json.loads(path.read_text()) for path in (root / "tests/gpu/reports").glob("*.json")]
    measured = [report for report in saved if report["device"] == "cuda"]
    assert make_row(max(measured, key=lambda report: report["began"], default=None)) in text
    core_ms = [float(cost) for cost in re.findall(r"\*\*([\d.]+)\*\*", text.partition("| stream through")[2])[:2]]
    for name, cost in zip(("ResNet-50, int8", "starter bundle"), core_ms, strict=True):
        pods = " | ".join(f"{math.ceil(rate * cost / 1000 / BUSY / 4)} pods of 4 cores" for rate in RATES)
        assert f"| {name}, CPU | {1000 / cost:.0f} | | {pods} | 150 to 178 MiB a worker |" in text


def test_a_report_gives_the_row_of_its_gpu(root: Path) -> None:
    """A core reads in 1 ms and decides in 1 ms, and the GPU scores 1,500 images/s; the figures are the part's."""
    names = {"batches of 64: read and probe": 8000, "batches of 64: decisions and results": 1000}
    names |= {"stream: bytes to p-values": 1500}
    figures = [{"name": name, "value": value} for name, value in names.items()]
    part = {"figures": figures, "clocks": {"memory_mib": {"max": 4096}}}
    report = {"parts": {"end_to_end": part}, "machine": {"gpus": [{"name": "H200"}], "cores": 8}}
    assert make_row(report) == "| ResNet-50, FP16, H200 | 500 | 1,500 | 0.5 GPUs | 4.8 GPUs | 4,096 MiB of the GPU |"
    assert make_row(report | {"parts": {"end_to_end": part | {"figures": figures[1:]}}}).count("not measured") == 5
    source = (root / "tests/gpu/parts/end_to_end.py").read_text()
    assert all(name.partition(": ")[2] in source for name in names)
