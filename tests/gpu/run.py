"""`make gpu`: every part of the GPU report in turn, each in its own process with a time limit.

    run.py [--parts decode,mixture] [--save NAME] [--out FILE] [--limit-s 570]

A part that crashes, hangs or lacks a package costs only itself: its row says so, with the end of what it printed. FILE
and a page beside it (FILE.html) are written before the first part and after each, so that a killed run has both. The
device is CUDA unless UNLENSED_DEVICE=cpu asks for a rehearsal. Exit code: 0, or 1 where a part failed or ran out of
time; a missing package and a missed bound are findings, not failures.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import describe_commit, describe_machine, read_watch, watch_gpu
from report import format_report, strip_paths, write_page

from ingest.device import DeviceUnavailable, Request, resolve_device

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REPORTS = HERE / "reports"
# By importance. Time limits in seconds on a GPU, and in a rehearsal.
BOXES_S = {
    "engine_parity": (100, 150),
    "end_to_end": (90, 50),
    "jobs": (120, 90),
    "damage": (30, 30),
    "mixture": (45, 30),
    "decode": (60, 40),
    "extractor": (75, 40),
    "own_engines": (90, 90),
    "triton_server": (120, 40),
    "video": (40, 30),
    "gpu_faults": (45, 30),
    "training_batches": (40, 30),
    "training_step": (80, 150),
    "em_fit": (60, 20),
}
LIMIT_S = 570.0  # of all parts: available machines limit a command to ten minutes
TAIL_LINES = 25
GRACE_S = 5.0
MISSING = "missing package"
STATUS = {0: "ok", 3: MISSING}


def run_part(name: str, device: str, box_s: float, scratch: Path) -> dict[str, Any]:
    """Run one part within its limit and return its section of the report."""
    folder = scratch / name
    folder.mkdir()
    out, log, watch = (scratch / f"{name}.{ending}" for ending in ("json", "log", "csv"))
    out.write_text(json.dumps({"figures": [], "notes": [], "troubles": [], "versions": {}}))
    paths = [str(ROOT), str(HERE), str(ROOT / "tests" / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    if device == "cpu":  # a second thread gains little in a rehearsal, and is slow on a busy machine
        environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, str(HERE / "part.py"), name, str(out), device, str(folder)]
    began_s = time.monotonic()
    with log.open("w") as file, watch_gpu(watch):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(box_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    fields = json.loads(out.read_text())
    status = "timed_out" if code is None else STATUS.get(code, "failed")
    if status == MISSING:
        status = f"{status} {fields['troubles'].pop()}"
    elif status == "ok" and fields["troubles"]:
        status = "partly"
    places = [Path(stream) for stream in os.environ.get("PYTHONPATH", "").split(os.pathsep) if stream]
    section = {"status": status, "exit_code": code, "seconds": time.monotonic() - began_s, "box_s": box_s, **fields}
    section["clocks"] = read_watch(watch)
    if status != "ok":
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        section["output_tail"] = [strip_paths(line[:500], places) for line in lines]
        section["troubles"] = [strip_paths(trouble, places) for trouble in section["troubles"]]
    return section


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a part and its child processes, with SIGTERM and then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def read_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(BOXES_S), help="names, separated by commas, in their order")
    parser.add_argument("--save", metavar="NAME", help="also save the report as tests/gpu/reports/NAME.json")
    parser.add_argument("--out", type=Path, default=Path("gpu-report.json"))
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of all parts together")
    parser.add_argument("--box-s", type=float, help="one time limit for every part")
    parser.add_argument("--commit", default=describe_commit(), help="the commit, outside a checkout")
    return parser.parse_args()


def main() -> int:
    """Run the parts, write the report, print the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the running part is ended, too
    options = read_options()
    request: Request = "cpu" if os.environ.get("UNLENSED_DEVICE") == "cpu" else "cuda"
    try:
        device = resolve_device(request)
    except DeviceUnavailable as error:
        say(f"{error}; UNLENSED_DEVICE=cpu rehearses the parts without one")
        return 2
    began_s, began = time.monotonic(), datetime.now(UTC)
    report: dict[str, Any] = {"device": device.kind, "reason": device.reason, "began": f"{began:%Y-%m-%d %H:%M} UTC"}
    report |= {"commit": options.commit, "machine": describe_machine(), "seconds": 0.0, "parts": {}}
    report["planned"] = options.parts.split(",")
    with tempfile.TemporaryDirectory(prefix="unlensed-gpu-") as scratch:
        for name in report["planned"]:
            write_report(report, options.out, name)
            box_s = options.box_s or BOXES_S.get(name, (60, 60))[device.kind == "cpu"]
            left_s = options.limit_s - (time.monotonic() - began_s) - GRACE_S
            say(f"{name} ... (at most {min(box_s, left_s):.0f} s)")
            if left_s < 1:
                nothing = {"figures": [], "notes": [], "troubles": [], "versions": {}, "clocks": {}}
                section = {"status": "no time left", "exit_code": None, "seconds": 0.0, "box_s": box_s, **nothing}
            else:
                section = run_part(name, device.kind, min(box_s, left_s), Path(scratch))
            report["parts"][name] = section
            report["seconds"] = time.monotonic() - began_s
    write_report(report, options.out)
    say(format_report(report))
    say(f"the report: {options.out} and {options.out.with_suffix('.html')}")
    if options.save:
        write_report(report, REPORTS / f"{options.save}.json")
    return int(any(map(has_failed, report["parts"].values())))


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def has_failed(section: dict[str, Any]) -> bool:
    """Return whether a part failed for a reason other than a missing package."""
    broken = any(f": {MISSING} " not in trouble for trouble in section["troubles"])
    return broken or section["status"] in {"failed", "timed_out", "no time left"}


def write_report(report: dict[str, Any], path: Path, running: str = "") -> None:
    """Write the report as JSON, in which a number that is none is null, and as a page."""
    clean = json.loads(json.dumps(report), parse_constant=lambda _: None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(clean, indent=1) + "\n")
    try:
        write_page(clean, path.with_suffix(".html"), running)
    except Exception as error:  # noqa: BLE001 - Jinja2 may be missing; the figures are still wanted
        say(f"no page: {type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
