"""The READMEs: short at the root, and each with a list of its files that is the tree's."""

import re
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "ingest",
    "ingest/provenance",
    "scorer",
    "scorer/explain",
    "scorer/api",
    "scorer/review",
    "scorer/stream",
    "scorer/archive",
    "scorer/archive/source",
    "scorer/archive/report",
    "training",
    "training/data",
    "model_repository",
    "tests",
)
UNLISTED = {"__init__.py", "py.typed", "README.md"}


def list_tree(folder: str) -> set[str]:
    """Return the names of the files below a folder, without those of a folder below it that has a README.

    The tests mirror the packages: of them only what lies at the top counts, folders among it.
    """
    if folder == "tests":
        return {path.name for path in (ROOT / folder).iterdir() if path.name != "__pycache__"} - UNLISTED
    others = [ROOT / each for each in FOLDERS if each.startswith(f"{folder}/")]
    paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.name for path in paths if not any(path.is_relative_to(other) for other in others)} - UNLISTED


def list_readme(folder: str) -> set[str]:
    """Return the names in the first column of the code block under the heading "Files": a line a file or a few."""
    text = (ROOT / folder / "README.md").read_text("utf-8")
    block = re.search(r"^## Files\n.*?^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, f"{folder}/README.md has no code block under the heading Files"
    names = [name for line in block[1].splitlines() if line for name in re.split(r"\s{2,}", line.strip())[0].split()]
    kept = [name.rstrip("/") if folder == "tests" else name for name in names]
    return {PurePosixPath(name).name for name in kept if not name.endswith("/")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_readme_lists_the_files_of_its_folder(folder: str) -> None:
    """Every file stands in the list, and every name in the list is a file."""
    tree, listed = list_tree(folder), list_readme(folder)
    assert listed - tree == set(), "listed, but not in the tree"
    assert tree - listed == set(), "in the tree, but not listed"


@pytest.mark.parametrize("folder", FOLDERS)
def test_links_lead_somewhere(folder: str) -> None:
    """Each relative link of a README is a file or a folder."""
    for readme in (ROOT / "README.md", ROOT / folder / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme.read_text("utf-8")):
            assert (readme.parent / target).exists(), f"{readme.relative_to(ROOT)} links to {target}"


def test_sizes() -> None:
    """The README at the root is at most 10 KB, those of folders at most 17 KB."""
    assert (ROOT / "README.md").stat().st_size <= 10_000
    for folder in FOLDERS:
        assert (ROOT / folder / "README.md").stat().st_size <= 17_000
