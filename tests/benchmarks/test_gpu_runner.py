"""The runner of the GPU report: a failing part affects no other part, and its earlier figures are kept and shown."""

import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PARTS = {
    "sound": """
def measure(part):
    part.record("seconds", 2.0, "s", at_most=3)
    part.record("share", float("nan"), "x", at_least=0.5)
    part.note(f"on {part.device}, {part.choose('full', 'small')}")
""",
    "crash": """
import os
def measure(part):
    part.record("before the crash", 1.0, "")
    print("last words", flush=True)
    os.abort()
""",
    "segfault": """
import ctypes
def measure(part):
    ctypes.string_at(0)
""",
    "hang": """
import pathlib, subprocess, sys, time
def measure(part):
    part.record("before the hang", 1.0, "")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path(__file__).with_suffix(".child").write_text(str(child.pid))
    time.sleep(600)
""",
    "lacking": """
import unlensed_no_such_package
def measure(part):
    pass
""",
    "partly": """
def measure(part):
    with part.attempt("one engine"):
        import unlensed_no_such_engine
    part.record("another engine", 1.0, "")
""",
    "broken": """
from scorer.mixture import no_such_name
def measure(part):
    pass
""",
}


def run_parts(root: Path, folder: Path, *options: str, device: str = "cpu") -> tuple[int, dict[str, Any], str]:
    """Run the parts in `folder`; return exit code, report and output."""
    for name, text in PARTS.items():
        (folder / f"{name}.py").write_text(text)
    out = folder / "report.json"
    answer = subprocess.run(
        [sys.executable, str(root / "tests/gpu/run.py"), "--out", str(out), *options],
        env=os.environ | {"UNLENSED_DEVICE": device, "PARTS_FOLDER": str(folder), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return answer.returncode, json.loads(out.read_text()) if out.exists() else {}, answer.stdout + answer.stderr


@pytest.fixture(name="ran", scope="module")
def fixture_ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str, Path]:
    """One run of every part."""
    folder = tmp_path_factory.mktemp("parts")
    return *run_parts(root, folder, "--parts", ",".join(PARTS), "--box-s", "6"), folder


def test_each_ending_is_told(ran: tuple[int, dict[str, Any], str, Path]) -> None:
    """A crash, a hang, a missing package and a defect have different outcomes, and the run fails."""
    code, report, _, _ = ran
    assert {name: part["status"] for name, part in report["parts"].items()} == {
        "sound": "ok",
        "crash": "failed",
        "segfault": "failed",
        "hang": "timed_out",
        "lacking": "missing package unlensed_no_such_package",
        "partly": "partly",
        "broken": "failed",
    }
    assert code == 1


def test_the_page_states_each_reason(ran: tuple[int, dict[str, Any], str, Path]) -> None:
    """A page is there after every kind of trouble, and nobody takes a rehearsal for a run."""
    page = (ran[3] / "report.html").read_text()
    assert "REHEARSAL: NOTHING RAN ON A GPU" in page
    for reason in ("SIGABRT", "SIGSEGV", "stopped at its limit of 6 s", "missing package unlensed_no_such_package"):
        assert reason in page
    assert "one engine: missing package unlensed_no_such_engine" in page
    assert "cannot import name" in page
    assert page.count("needs a GPU") == 2


def test_a_killed_run_leaves_a_page_and_no_process(root: Path, tmp_path: Path) -> None:
    """The page names the part that ran, and those that did not begin; the part is ended, too."""
    for name in ("partly", "hang"):
        (tmp_path / f"{name}.py").write_text(PARTS[name])
    command = [sys.executable, str(root / "tests/gpu/run.py"), "--out", str(tmp_path / "report.json")]
    process = subprocess.Popen(
        [*command, "--parts", "partly,hang,sound"],
        env=os.environ | {"UNLENSED_DEVICE": "cpu", "PARTS_FOLDER": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    deadline, child = time.monotonic() + 60, tmp_path / "hang.child"
    while not (child.exists() and child.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 143
    page = (tmp_path / "report.html").read_text()
    assert "The part hang was running when this page was written" in page
    assert page.count("not begun") == 1
    await_end(int(child.read_text()))


def test_rows_of_a_run_on_a_gpu(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound is met, missed, or not measured for a stated reason; what is no number meets no bound."""
    monkeypatch.syspath_prepend(root / "tests/gpu")
    list_rows = importlib.import_module("report").list_rows
    section = {
        "status": "ok",
        "exit_code": 0,
        "notes": ["archive: energy of 1,000 images: no NVML"],
        "troubles": [],
        "box_s": 9,
    }
    shares = {"stream: share of the mixture": (2.0, True), "archive: share of the mixture": (None, False)}
    figures = [
        {"name": name, "value": value, "unit": "%", "asked": "<= 3", "met": met, "ceiling": None}
        for name, (value, met) in shares.items()
    ]
    ended = {"end_to_end": section | {"figures": figures}, "damage": section | {"status": "timed_out", "figures": []}}
    rows = list_rows({"device": "cuda", "planned": [*ended, "video"], "parts": ended})
    found = {row.name: (row.verdict, row.measured or row.reason) for row in rows}
    assert found["stream: share of the mixture"] == ("met", "2 %")
    assert found["archive: share of the mixture"] == ("missed", "the part gave no number")
    assert found["archive: energy of 1,000 images"] == ("not measured", "archive: energy of 1,000 images: no NVML")
    assert found["refused by the CPU, scored after the check"] == ("not measured", "stopped at its limit of 9 s")
    assert found["h264: frames of another time"] == ("not measured", "the run ended before")


def test_every_part_is_rehearsed(root: Path, tmp_path: Path, triton_python: Path) -> None:
    """No part fails or lacks a package, and each figure that is asked of a GPU is rehearsed, if a CPU can."""
    assert triton_python
    command = [sys.executable, str(root / "tests/gpu/run.py"), "--out", str(tmp_path / "report.json")]
    answer = subprocess.run(
        [*command, "--box-s", "300", "--limit-s", "900"],
        env=os.environ | {"UNLENSED_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: part["status"] for name, part in report["parts"].items()} == dict.fromkeys(report["planned"], "ok")
    assert answer.returncode == 0
    asked = re.findall(r'Asked\("(\w+)", "([^"]+)"', (root / "tests/gpu/part.py").read_text())
    found = {(name, figure["name"]) for name, part in report["parts"].items() for figure in part["figures"]}
    assert {name for _, name in set(asked) - found if "energy" not in name and "h264" not in name} == set()


def test_figures_before_the_end_are_kept(ran: tuple[int, dict[str, Any], str, Path]) -> None:
    """The figures of a part before its crash are in the report, with the end of its output."""
    _, report, _, _ = ran
    parts = report["parts"]
    assert [figure["name"] for figure in parts["crash"]["figures"]] == ["before the crash"]
    assert "last words" in parts["crash"]["output_tail"]
    assert [figure["name"] for figure in parts["hang"]["figures"]] == ["before the hang"]
    assert parts["partly"]["troubles"] == ["one engine: missing package unlensed_no_such_engine"]
    assert [figure["name"] for figure in parts["partly"]["figures"]] == ["another engine"]


def test_a_hanging_part_takes_its_children_along(ran: tuple[int, dict[str, Any], str, Path]) -> None:
    """No process of a part runs after its time limit."""
    await_end(int((ran[3] / "hang.child").read_text()))


def await_end(process: int) -> None:
    """Wait until a process has ended."""
    child, deadline = Path(f"/proc/{process}/stat"), time.monotonic() + 10
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_rehearsal_says_so_and_judges_nothing(ran: tuple[int, dict[str, Any], str, Path]) -> None:
    """On a CPU sizes are small, a banner names the device, and no bound is judged; a NaN meets no bound."""
    _, report, printed, _ = ran
    assert report["device"] == "cpu"
    assert "DEVICE: CPU" in printed
    assert printed.count("not measured  needs a GPU") == 2
    assert "missed" not in printed
    sound = report["parts"]["sound"]
    assert sound["notes"] == ["on cpu, small"]
    assert [(figure["asked"], figure["value"], figure["met"]) for figure in sound["figures"]] == [
        ("<= 3", 2.0, True),
        (">= 0.5", None, False),
    ]


def test_a_report_names_no_place_of_the_machine(ran: tuple[int, dict[str, Any], str, Path], root: Path) -> None:
    """Reports are committed: paths of the checkout and of the interpreter are not in them."""
    _, report, _, _ = ran
    assert "Traceback" in " ".join(report["parts"]["lacking"]["output_tail"])
    text = json.dumps(report)
    assert str(root) not in text
    assert sys.prefix not in text


def test_a_missing_package_is_no_failure(root: Path, tmp_path: Path) -> None:
    """Exit code 0 when only a package is missing; the limit of all parts together applies."""
    code, report, _ = run_parts(root, tmp_path, "--parts", "lacking,partly", "--box-s", "30")
    assert (code, list(report["parts"])) == (0, ["lacking", "partly"])
    code, report, _ = run_parts(root, tmp_path, "--parts", "sound", "--limit-s", "5")
    assert (code, report["parts"]["sound"]["status"]) == (1, "no time left")


def test_carried_packages_are_unpacked(root: Path, tmp_path: Path) -> None:
    """Parts import carried wheels and archives in pieces, from several calls, beside installed packages."""
    carries = [tmp_path / name for name in ("first", "second")]
    for folder in carries:
        folder.mkdir()
    with zipfile.ZipFile(carries[0] / "small-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("unlensed_small.py", "VALUE = 2")
        wheel.writestr("nvidia/unlensed_tiny.py", "VALUE = 7")
    (tmp_path / "unlensed_large.py").write_text("VALUE = 3")
    with tarfile.open(tmp_path / "large.txz", "w:xz") as archive:
        archive.add(tmp_path / "unlensed_large.py", "unlensed_large.py")
    packed = (tmp_path / "large.txz").read_bytes()
    for number, piece in enumerate((packed[:50], packed[50:])):
        (carries[number] / f"large.txz.{number:02d}").write_bytes(piece)
    (tmp_path / "carried.py").write_text(
        "import nvidia.dali, nvidia.unlensed_tiny, unlensed_large, unlensed_small\n"
        "def measure(part):\n"
        "    part.record('product', unlensed_large.VALUE * unlensed_small.VALUE * nvidia.unlensed_tiny.VALUE, '')\n"
    )
    out = tmp_path / "report.json"
    for folder, options in zip(carries, (["--unpack"], ["--parts", "carried", "--out", str(out)]), strict=True):
        subprocess.run(
            [str(root / "tests/gpu/run.sh"), *options],
            env=os.environ
            | {"UNLENSED_DEVICE": "cpu", "PARTS_FOLDER": str(tmp_path), "PYTHON": sys.executable}
            | {"CARRY": str(folder), "SITE": str(tmp_path / "site")},
            check=True,
            timeout=120,
        )
    (figure,) = json.loads(out.read_text())["parts"]["carried"]["figures"]
    assert figure["value"] == 42


def test_without_a_gpu_nothing_is_measured_by_mistake(root: Path, tmp_path: Path) -> None:
    """The run refuses to start on a machine without a GPU, and states how to rehearse."""
    from ingest.device import find_gpu  # noqa: PLC0415 - beside its only use

    if not find_gpu()[1]:
        pytest.skip("a GPU answers here")
    code, report, printed = run_parts(root, tmp_path, "--parts", "sound", device="")
    assert (code, report) == (2, {})
    assert "UNLENSED_DEVICE=cpu rehearses" in " ".join(printed.split())
