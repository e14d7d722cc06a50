"""House rules that no linter knows."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MAX_LINES = 400
ROOMS = ("ingest", "scorer", "training")


def tracked(root: Path, *patterns: str) -> list[Path]:
    """Return the tracked files that match `patterns`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns],  # noqa: S607 - git is where the developer has it
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in listing.stdout.split("\0") if name]


def test_files_stay_small(root: Path) -> None:
    """No source file is longer than 400 lines."""
    long = [path.name for path in tracked(root, "*.py") if len(path.read_text().splitlines()) > MAX_LINES]
    assert not long


def test_tree_stays_small(root: Path) -> None:
    """The tracked tree is under 6 MiB and the starter bundle under 5 MB."""
    assert sum(path.stat().st_size for path in tracked(root)) < 6 << 20
    assert sum(path.stat().st_size for path in tracked(root, "model_repository")) < 5_000_000


def test_every_test_says_what_it_proves(root: Path) -> None:
    """Each test function has a docstring."""
    silent = [
        f"{path.name}:{node.name}"
        for path in tracked(root, "tests/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert not silent


def test_make_clean_keeps_what_was_trained(root: Path, tmp_path: Path) -> None:
    """Runs and bundles of `make train-demo` take hours; everything else is made again."""
    shutil.copy(root / "Makefile", tmp_path)
    for name in (".venv", "sbom", "demo-output/pictures", "demo-output/run/faces", "demo-output/bundle"):
        (tmp_path / name).mkdir(parents=True)
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S607 - make is where the developer has it
    assert "kept: demo-output/run demo-output/bundle" in done.stdout
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["Makefile", "demo-output", "demo-output/bundle", "demo-output/run", "demo-output/run/faces"]


def test_serving_rooms_read_no_pickle(root: Path) -> None:
    """No serving module turns `allow_pickle` on or names a pickle reader."""
    pattern = re.compile(r"allow_pickle=True|import pickle|pickle\.load|torch\.load|import joblib")
    guilty = [path.name for path in tracked(root, "ingest/*.py", "scorer/*.py") if pattern.search(path.read_text())]
    assert not guilty


def test_text_is_utf_8_whatever_the_locale(root: Path) -> None:
    """Each text file that a package or a script opens, reads or writes has its encoding stated."""
    silent = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in tracked(root, "ingest/*.py", "scorer/*.py", "training/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text(node) and "encoding" not in {word.arg for word in node.keywords}
    ]
    assert not silent


def opens_text(call: ast.Call) -> bool:
    """Return whether a call is one of `Path`'s or the built-in ones that read or write a text file."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    modes = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if name == "open":
        return any(re.fullmatch(r"[rwax]t?\+?", mode) for mode in modes) or "newline" in {w.arg for w in call.keywords}
    return name == "write_text" or (name == "read_text" and not call.args)


def test_what_is_printed_goes_through_the_terminal(root: Path) -> None:
    """No other module prints, builds a Rich console of its own or asks for markup: a name could act there."""
    pattern = re.compile(r"^\s*print\(|(?<!\w)Console\(|markup=True|Text\.from_markup", re.MULTILINE)
    printing = [
        path.relative_to(root).as_posix()
        for path in tracked(root, "ingest/*.py", "scorer/*.py", "training/*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert printing == ["scorer/commands/command_line.py"]  # the version


@pytest.mark.parametrize(
    ("package", "doors"),
    [
        ("nvidia", ["ingest/dali.py", "ingest/dali_cuda.py", "ingest/dali_graph.py"]),  # crops, and a server's
        ("av", ["ingest/video.py"]),
        ("cupy", ["ingest/device.py", "scorer/engines/cuda/tensorrt_engine.py"]),
        ("kafka", [f"scorer/stream/kafka/{part}.py" for part in ("client", "records", "security")]),
        ("onnxruntime", ["scorer/engines/onnx_runtime.py", "training/export/onnx_precisions.py"]),  # no telemetry
        ("ray", ["scorer/archive/ray_scan.py"]),
        ("uvicorn", ["scorer/api/server.py"]),
        ("tritonclient", [f"scorer/engines/triton/{part}.py" for part in ("embedder", "regions")]),
    ],
)
def test_one_door_to_each_foreign_room(root: Path, package: str, doors: list[str]) -> None:
    """DALI and every broker's and server's client is imported by exactly one module, or by one a room."""
    importers = [
        path.relative_to(root).as_posix()
        for room in ROOMS
        for path in tracked(root, f"{room}/*.py")
        if re.search(rf"^\s*(import|from) {package}\b", path.read_text(), re.MULTILINE)
    ]
    assert importers == doors


def test_no_machine_path_in_the_tree(root: Path) -> None:
    """No tracked text names a home directory or a package registry's host."""
    pattern = re.compile(rb"/(root|home|work)/\w|\b(pypi|files\.pythonhosted|registry\.npmjs)\.org\b")
    found = [
        path.name for path in tracked(root) if path.name != Path(__file__).name and pattern.search(path.read_bytes())
    ]
    assert not found
