"""SECURITY.md says what the code does."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ingest.probe import DEFAULT_LIMITS
from scorer.messages import MAX_FACES
from scorer.settings import HealthSettings, PayloadSettings, StreamSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def text() -> str:
    """The document in one line."""
    return " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())


def test_it_stays_readable(text: str) -> None:
    """It has at most 8 KB, and every file that it points to is there."""
    assert len(text.encode()) <= 8 * 1024
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / link).exists(), link


def test_limits_are_those_of_the_code(text: str) -> None:
    """Each default that is stated is the one in force."""
    assert f"`stream.max_record_bytes`, {StreamSettings().max_record_bytes >> 20} MiB" in text
    assert f"faces ({MAX_FACES})" in text
    assert f"bytes ({DEFAULT_LIMITS.max_bytes >> 20} MiB)" in text
    assert f"pixels ({DEFAULT_LIMITS.max_pixels // 10**6} million)" in text
    assert PayloadSettings() == PayloadSettings(schemes=(), file_roots=(), https_hosts=())
    assert HealthSettings().host == "127.0.0.1"


def test_floors_are_those_of_the_packages(text: str) -> None:
    """The least versions that are stated are the ones that are asked for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    needs = {need.name: str(need.specifier) for lines in extras.values() for need in map(Requirement, lines)}
    stated = dict(re.findall(r"\| ([^|]+?) \| ([^|]+?) \|", text))
    assert needs["torch"] == f">={stated['PyTorch']}"
    assert needs["nvidia-dali-cuda130"] == f"=={re.search(r'[0-9.]+[0-9]', stated['DALI'].partition('(')[2])[0]}"
    least, below = stated["kafka-python"].split(", below ")
    assert set(needs["kafka-python"].split(",")) == {f">={least}", f"<{below}"}
    triton = (ROOT / "deploy/docker/triton.Dockerfile").read_text(encoding="utf-8")
    assert f"tritonserver:{stated['Triton on a GPU']}-py3" in triton
