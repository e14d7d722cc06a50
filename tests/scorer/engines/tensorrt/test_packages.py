"""The table of TensorRT's versions is that of the images, the extras and the constraints."""

import re
import tomllib
from pathlib import Path

import pytest

from scorer.engines.tensorrt.packages import CONTAINERS, TENSORRT, TENSORRT_RTX, TORCH_TENSORRT, find_package


def test_the_table_is_kept_everywhere(root: Path) -> None:
    """Images of one month; pinned packages of the table's releases; extras that ask for these."""
    places = (*root.glob("deploy/docker/*.Dockerfile"), *root.glob("deploy/**/README.md"), root / "deploy/compose/.env")
    images = re.findall(r"nvidia/(tensorrt|tritonserver):(\S+?)-py3", "\n".join(path.read_text() for path in places))
    assert set(images) == {("tensorrt", CONTAINERS), ("tritonserver", CONTAINERS)}
    pinned = dict(
        re.findall(r"(?m)^((?:torch|tensorrt)\b[a-z0-9-]*)==(\d+\.\d+)", (root / "constraints.txt").read_text())
    )
    for part in ("", "-cu13", "-cu13-bindings", "-cu13-libs"):
        assert pinned.pop(f"tensorrt{part}") == TENSORRT
    for name in ("torch", "torch-tensorrt", "torch-tensorrt-rtx"):
        assert pinned.pop(name) == TORCH_TENSORRT
    project = tomllib.loads((root / "pyproject.toml").read_text())
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    assert f"torch-tensorrt=={TORCH_TENSORRT}.*" in extras["tensorrt"]
    assert f"torch-tensorrt-rtx=={TORCH_TENSORRT}.*" in groups["torch-tensorrt-no-deps"]
    assert {line.partition("==")[2] for line in extras["rtx"]} == {TENSORRT_RTX}


def test_a_package_that_cannot_be_imported_states_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver these packages raise plain exceptions: an obstacle, as a missing package is."""
    (tmp_path / "unusable_tensorrt.py").write_text("raise Exception('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_package("unusable_tensorrt") == (None, "unusable_tensorrt cannot be imported (Exception: no driver)")
    assert find_package("missing_tensorrt") == (None, "missing_tensorrt is not installed")
    assert find_package("missing_tensorrt", "json")[1] == ""
