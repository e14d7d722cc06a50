"""EXIF tags in an explanation: what the file states beside what the bundle's heads predict."""

import io
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from ingest.formats.header import EXIF_IFD
from scorer.bundle.arrays import write_arrays
from scorer.bundle.bundle import Bundle, read_bundle, write_manifest
from scorer.bundle.exif_heads import EXIF_HEADS, NO_LIMIT, QUANTILES, ExifHeads, rank_among
from scorer.commands.main import app
from scorer.errors import BundleMismatch
from scorer.explain.explain import Explainer
from scorer.explain.sentences import NO_HEADS
from scorer.explain.sheet import render_sheet
from scorer.local_scorer import LocalScorer
from tests.scorer.explain.test_explain import ask, encode, explain

pytestmark = pytest.mark.slow


def add_heads(bundle: Bundle, folder: Path, **changes: object) -> Bundle:
    """Return a copy of a bundle with heads that predict the middle rank: a strict one, one of chance, two others."""
    tags = np.array([[1.0, 3.0], [0.01, 1.0], [10.0, 300.0], [400.0, 6400.0]])
    heads = ExifHeads(
        weights=np.zeros((4, 768)),
        scores=np.tile(np.linspace(-1, 1, QUANTILES), (4, 1)),
        tags=np.linspace(tags[:, 0], tags[:, 1], QUANTILES, axis=1),
        skill=np.array([[0.7, 0.6, 0.8], [0.55, 0.49, 0.6], [0.7, 0.6, 0.8], [0.7, 0.6, 0.8]]),
        photographs=np.full(4, 500.0),
        limits=np.array([0.45, 0.45, NO_LIMIT, 0.6]),
    )
    shutil.copytree(bundle.folder, folder)
    write_arrays(folder / EXIF_HEADS, asdict(replace(heads, **changes)))
    licences = {name: record.licence for name, record in bundle.manifest.files.items()}
    fields = bundle.manifest.model_dump(exclude={"schema_version", "files"})
    write_manifest(folder, fields, {EXIF_HEADS: "none", **licences})
    return read_bundle(folder)


def test_agreement_contradiction_and_chance_are_told_apart(
    local_scorer: LocalScorer, portrait: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank beyond the limit contradicts; chance predicts nothing; a plain score opens no heads; sheets say all."""
    exif = Image.Exif()
    exif[0x10F] = "Maker"
    exif.get_ifd(EXIF_IFD).update({0x829D: 2.99, 0x829A: 1 / 125, 0x920A: 50.0, 0x8827: 100})
    photograph = encode(Image.open(io.BytesIO(portrait)), exif=exif)
    before = explain(local_scorer, ask(photograph), photograph)
    assert before.explanation.camera_tags is None
    assert NO_HEADS in render_sheet(before)
    bundle = add_heads(local_scorer.bundle, tmp_path / "bundle")
    monkeypatch.setattr(local_scorer, "bundle", bundle)
    explained = explain(local_scorer, ask(photograph), photograph)
    tags = explained.explanation.camera_tags or ()
    assert [each.contradicts for each in tags] == [True, None, None, False]
    assert [each.predicted_rank for each in tags] == [0.5, None, 0.5, 0.5]
    assert [each.stated_rank for each in tags] == pytest.approx([1, 0, 14 / QUANTILES, 0], abs=0.01)
    for part in (
        "1/125 s",
        "They contradict each other",
        "chance: not used",
        "Too few photographs",
        "No contradiction",
    ):
        assert part in render_sheet(explained)
        assert part in " ".join(explained.explanation.sentences)
    untagged = explain(local_scorer, ask(portrait), portrait)
    assert {each.contradicts for each in untagged.explanation.camera_tags or ()} == {None}
    assert "not stated" in render_sheet(untagged)
    (bundle.folder / EXIF_HEADS).unlink()
    assert local_scorer.score_located(local_scorer.locate(ask(portrait), portrait)).faces == untagged.faces


@pytest.mark.parametrize(
    "harm",
    [
        {"limits": np.full(4, 1.5)},
        {"tags": -np.ones((4, 1)) * np.arange(QUANTILES)},
        {"weights": np.zeros((4, 5))},
        {"skill": np.full((4, 3), np.nan)},
    ],
)
def test_unusable_heads_are_refused(starter: Bundle, tmp_path: Path, harm: dict[str, np.ndarray]) -> None:
    """`bundle verify`, and whoever explains, refuses a share above 1, descending quantiles, another shape and NaN."""
    bundle = add_heads(starter, tmp_path / "bundle", **harm)
    verified = CliRunner().invoke(app, ["bundle", "verify", "--files-only", str(bundle.folder)])
    assert isinstance(verified.exception, BundleMismatch)
    assert "exif_heads.npz cannot be used" in str(verified.exception)
    with pytest.raises(BundleMismatch):
        Explainer(bundle, None, None, None, None)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_ranks_are_shares_and_ascend(known: list[float], values: list[float]) -> None:
    """A rank lies in 0..1, a higher value never has a lower one, and the ends have 0 and 1."""
    ranks = rank_among(np.array([-1e7, *sorted(values), 1e7]), np.sort(known))
    assert (ranks[0], ranks[-1]) == (0, 1)
    assert (np.diff(ranks) >= 0).all()
