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

from ingest.exif import EXIF_IFD, TAG_NAMES
from scorer.bundle.arrays import write_arrays
from scorer.bundle.bundle import Bundle, read_bundle, write_manifest
from scorer.bundle.exif_heads import EXIF_HEADS, NO_LIMIT, QUANTILES, ExifHeads, rank_among, read_exif_heads
from scorer.commands.main import app
from scorer.errors import BundleMismatch
from scorer.explain.messages import TagRank
from scorer.explain.sheet import render_sheet
from scorer.local_scorer import LocalScorer
from tests.scorer.explain.test_explain import ask, encode, explain

pytestmark = pytest.mark.slow


def make_heads(size: int) -> ExifHeads:
    """Return heads that predict the middle rank: a strict one, one of chance, one without a limit, a lenient one."""
    tags = np.array([[1.0, 3.0], [0.01, 1.0], [10.0, 300.0], [400.0, 6400.0]])
    return ExifHeads(
        weights=np.zeros((4, size)),
        scores=np.tile(np.linspace(-1, 1, QUANTILES), (4, 1)),
        tags=np.linspace(tags[:, 0], tags[:, 1], QUANTILES, axis=1),
        skill=np.array([[0.7, 0.6, 0.8], [0.55, 0.49, 0.6], [0.7, 0.6, 0.8], [0.7, 0.6, 0.8]]),
        counts=np.tile([500.0, 20.0], (4, 1)),
        limits=np.array([0.45, 0.45, NO_LIMIT, 0.6]),
    )


def add_heads(starter: Bundle, folder: Path, heads: ExifHeads) -> Bundle:
    """Write a copy of the starter bundle with heads, and read it."""
    shutil.copytree(starter.folder, folder)
    write_arrays(folder / EXIF_HEADS, asdict(heads))
    fields = starter.manifest.model_dump(exclude={"schema_version", "files"})
    licences = {name: record.licence for name, record in starter.manifest.files.items()}
    write_manifest(folder, fields, {EXIF_HEADS: "none", **licences})
    return read_bundle(folder)


@pytest.fixture(name="photograph")
def fixture_photograph(portrait: bytes) -> bytes:
    """The portrait with the four tags of a camera in its EXIF block: the lowest ISO speed and a high aperture."""
    picture, exif = Image.open(io.BytesIO(portrait)), Image.Exif()
    exif[0x10F] = "Maker"
    exif.get_ifd(EXIF_IFD).update({0x829D: 2.99, 0x829A: 1 / 125, 0x920A: 50.0, 0x8827: 100})
    return encode(picture, exif=exif)


def test_agreement_contradiction_and_chance_are_told_apart(
    local_scorer: LocalScorer, photograph: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank beyond the limit contradicts; a head that is no better than chance predicts nothing; text says so."""
    bundle = add_heads(local_scorer.bundle, tmp_path / "bundle", make_heads(768))
    assert bundle.manifest.schema_version == 2
    monkeypatch.setattr(local_scorer, "bundle", bundle)
    explained = explain(local_scorer, ask(photograph), photograph)
    tags = explained.explanation.camera_tags
    assert tags is not None
    assert [each.tag for each in tags] == list(TAG_NAMES)
    assert [each.contradicts for each in tags] == [True, None, None, False]
    assert [each.predicted_rank for each in tags] == [0.5, None, 0.5, 0.5]
    assert [each.stated_rank for each in tags] == pytest.approx([1, 0, 14 / QUANTILES, 0], abs=0.01)
    page = render_sheet(explained)
    for text in (page, " ".join(explained.explanation.sentences)):
        for part in ("They contradict each other", "chance: not used", "too few photographs show", "No contradiction"):
            assert part in text
    assert "1/125 s" in page
    untagged = explain(local_scorer, ask(encode(Image.open(io.BytesIO(photograph)))), photograph)
    assert untagged.explanation.cost.engine_passes == explained.explanation.cost.engine_passes
    assert TagRank.model_validate_json(tags[0].model_dump_json()) == tags[0]


def test_a_file_without_tags_is_not_compared(
    local_scorer: LocalScorer, portrait: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a tag there is a prediction, but nothing that it could contradict; plain scoring reads no heads."""
    bundle = add_heads(local_scorer.bundle, tmp_path / "bundle", make_heads(768))
    monkeypatch.setattr(local_scorer, "bundle", bundle)
    explained = explain(local_scorer, ask(portrait), portrait)
    assert {each.contradicts for each in explained.explanation.camera_tags or ()} == {None}
    assert "the tag is not stated" in render_sheet(explained)
    (bundle.folder / EXIF_HEADS).unlink()
    result = local_scorer.score_located(local_scorer.locate(ask(portrait), portrait))
    assert result.faces == explained.faces


def test_a_bundle_without_heads_says_so(local_scorer: LocalScorer, photograph: bytes) -> None:
    """The starter, as any bundle of an earlier release, has no heads: the sheet and the sentences state it."""
    explained = explain(local_scorer, ask(photograph), photograph)
    assert explained.explanation.camera_tags is None
    assert "This bundle has no heads that rank EXIF tags" in render_sheet(explained)


@pytest.mark.parametrize(
    "harm",
    [
        {"limits": np.full(4, 1.5)},
        {"tags": np.zeros((4, QUANTILES)) - np.arange(QUANTILES)},
        {"weights": np.zeros((4, 5))},
        {"skill": np.full((4, 3), np.nan)},
    ],
)
def test_unusable_heads_are_refused(starter: Bundle, tmp_path: Path, harm: dict[str, np.ndarray]) -> None:
    """Another shape, a share above 1, descending quantiles and NaN are refused, by `bundle verify` too."""
    bundle = add_heads(starter, tmp_path / "bundle", replace(make_heads(768), **harm))
    with pytest.raises(BundleMismatch, match=r"exif_heads.npz cannot be used"):
        read_exif_heads(bundle)
    verified = CliRunner().invoke(app, ["bundle", "verify", "--files-only", str(bundle.folder)])
    assert isinstance(verified.exception, BundleMismatch)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_ranks_are_shares_and_ascend(known: list[float], values: list[float]) -> None:
    """A rank lies in 0..1, a higher value never has a lower one, and the ends have 0 and 1."""
    quantiles, ascending = np.sort(known), np.sort(values)
    ranks = rank_among(ascending, quantiles)
    assert ((ranks >= 0) & (ranks <= 1)).all()
    assert (np.diff(ranks) >= 0).all()
    assert rank_among(np.array([known[0] - 1e7, known[0] + 1e7]), quantiles).tolist() == [0, 1]
