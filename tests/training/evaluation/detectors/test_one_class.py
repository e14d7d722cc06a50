"""Detectors that know photographs only."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ingest.spec import FaceBox, crop_window
from scorer.bundle.bundle import read_bundle
from training.evaluation.detectors.base import Picture, WeightsAbsent
from training.evaluation.detectors.catalogue import ONE_CLASS
from training.evaluation.detectors.one_class import load_bundle, normalise, open_one_class
from training.evaluation.detectors.residual_covariance import (
    HighPassBank,
    build_dncnn,
    correlate,
    list_kernels,
    load_noiseprint,
    take_centre,
)
from training.evaluation.features.weights import WrongWeights


def vary(seed: int) -> Picture:
    """Return a window of the astronaut with brightness and noise of a seed."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(40, 48))
    window = skimage.data.astronaut()[80 : 80 + side, 200 : 200 + side]
    pixels = window * rng.uniform(0.8, 1.1) + rng.normal(0, rng.uniform(2, 4), window.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs() -> list[Picture]:
    """Windows to fit to."""
    return [vary(seed) for seed in range(24)]


@pytest.fixture(scope="module")
def noiseprint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published layout with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "noiseprint++.th"
    torch.save({"network": build_dncnn().state_dict(), "global_step": 1}, path)
    return path


def test_bundle_gives_the_likelihoods_of_its_golden_faces(root: Path) -> None:
    """Windows of the golden pictures have the bundle's log-likelihoods."""
    bundle = read_bundle(root / "model_repository")
    windows = []
    for data, numbers in zip(bundle.golden.images, bundle.golden.boxes, strict=True):
        picture = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        window = crop_window(FaceBox(*map(float, numbers)), *picture.shape[1::-1], bundle.model.preprocess)
        windows.append(picture[window.top : window.top + window.height, window.left : window.left + window.width])
    detector = load_bundle(root / "model_repository", 1)
    assert not detector.higher_is_generated
    found = detector.score_batch(windows)
    assert found.dtype == np.float32
    stated = bundle.golden.log_likelihoods
    assert np.abs(found - stated).max() < 0.02 * np.ptp(stated)  # an engine decodes and resizes with other roundings
    assert detector.preprocess(windows[0]).shape == (3, 224, 224)
    assert detector.score_batch([]).shape == (0,)


def test_features_of_length_one_keep_their_direction() -> None:
    """The length of features does not change the normalised ones, and zeros are no NaN."""
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(normalise(rows * 7), rows / np.sqrt((rows**2).sum(axis=1))[:, None], rtol=1e-6)
    np.testing.assert_array_equal(normalise(np.zeros((1, 3), np.float32)), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_CLASS)
def test_other_pictures_are_less_typical(name: str, root: Path, photographs: list[Picture], noiseprint: Path) -> None:
    """Blurred noise is less like the photographs than others of their kind."""
    detector = open_one_class(name, root / "model_repository", photographs, 1, {"noiseprint": noiseprint})
    blurred = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    others = [np.asarray(Image.fromarray(each).resize((44, 44))) for each in blurred]
    known, unknown = (detector.score_batch(each) for each in ([vary(seed) for seed in range(100, 106)], others))
    assert detector.name == name
    assert known.dtype == unknown.dtype == np.float32
    sign = 1 if detector.higher_is_generated else -1
    assert np.median(sign * unknown) > np.median(sign * known)
    np.testing.assert_allclose(detector.score_batch(others[2:3]), unknown[2:3], rtol=1e-4)


def test_files_and_names_are_checked(root: Path, photographs: list[Picture], tmp_path: Path) -> None:
    """Absent weights, unknown names and no photographs are errors."""
    bundle = root / "model_repository"
    for files in ({}, {"noiseprint": tmp_path / "absent"}):
        with pytest.raises(WeightsAbsent, match=r"github.com/grip-unina/TruFor.*nonprofit"):
            open_one_class("noiseprint", bundle, photographs, 1, files)
    with pytest.raises(ValueError, match="bundle, bundle_l2, residuals, noiseprint"):
        open_one_class("other", bundle, photographs, 1, {})
    with pytest.raises(ValueError, match="no photographs"):
        open_one_class("residuals", bundle, [], 1, {})


def test_noiseprint_loads_strictly(noiseprint: Path, tmp_path: Path) -> None:
    """The network has the published size and keys, and noise follows from maps."""
    layers = build_dncnn().eval()
    assert sum(each.numel() for each in layers.parameters()) == 557_249
    content = torch.load(noiseprint, weights_only=True)
    layers.load_state_dict(content["network"])
    picture = torch.rand(3, 12, 10) * 255
    with torch.inference_mode():
        maps = load_noiseprint(noiseprint)(picture)
        torch.testing.assert_close(layers[-1](maps[None]), layers(picture[None] / 256))
    assert maps.shape == (64, 12, 10)
    content["network"]["48.bias"] = content["network"].pop("47.bias")
    torch.save(content, tmp_path / "renamed.th")
    with pytest.raises(WrongWeights, match=r"1 missing \(47.bias\), 1 unknown \(48.bias\)"):
        load_noiseprint(tmp_path / "renamed.th")


def test_filters_ignore_brightness_and_equal_numpy() -> None:
    """Each filter has sum 0 and norm 1, and its map equals a NumPy correlation."""
    kernels = list_kernels()
    assert kernels.shape == (10, 5, 5)
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose((kernels**2).sum(axis=(1, 2)), 1, rtol=1e-5)
    picture = np.random.default_rng(2).random((3, 7, 9)).astype(np.float32)
    blocks = np.lib.stride_tricks.sliding_window_view(picture, (5, 5), axis=(1, 2))
    expected = np.einsum("chwij,kij->ckhw", blocks, kernels).reshape(30, 3, 5)
    np.testing.assert_allclose(HighPassBank()(torch.from_numpy(picture)), expected, atol=1e-5)


@settings(max_examples=20)
@given(scale=st.floats(0.5, 20), shift=st.floats(-50, 50), seed=st.integers(0, 99))
def test_correlations_ignore_contrast(scale: float, shift: float, seed: int) -> None:
    """Correlations equal NumPy's for any scale and mean; a constant map has none."""
    maps = np.random.default_rng(seed).normal(size=(4, 6, 5))
    maps[3] = 1
    found = correlate(torch.from_numpy(maps * scale + shift))
    expected = np.corrcoef(maps[:3].reshape(3, -1))
    np.testing.assert_allclose(found, [expected[0, 1], expected[0, 2], 0, expected[1, 2], 0, 0], atol=1e-5)


def test_large_pictures_are_cut_to_their_centre() -> None:
    """At most 160 px of each side are used, without resampling."""
    picture = np.random.default_rng(3).integers(0, 256, (200, 100, 3), dtype=np.uint8)
    np.testing.assert_array_equal(take_centre(picture), picture[20:180].transpose(2, 0, 1))
