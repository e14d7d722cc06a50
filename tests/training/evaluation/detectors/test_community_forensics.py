"""Community Forensics: input, random changes, published layout, and what is trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from tests.training.evaluation.detectors.published import IMAGENET, list_untrained
from training.evaluation.detectors.community_forensics import (
    CHANGES,
    DESIGN,
    Change,
    CommunityForensics,
    augment,
    preprocess,
)
from training.evaluation.features.weights import WrongWeights

pytestmark = pytest.mark.slow

MEAN, STD = IMAGENET


@pytest.fixture(scope="module")
def network() -> CommunityForensics:
    """The network with random weights."""
    torch.manual_seed(0)
    return DESIGN.build({})


@pytest.mark.parametrize("shape", [(440, 440), (441, 600), (300, 120)])
def test_input_is_the_centre_of_440_px(
    shape: tuple[int, int], pillow_bilinear: Callable[[np.ndarray, int, int], np.ndarray]
) -> None:
    """The short side has 440 px and the centre 384 px, within two grey levels."""
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    resized = pillow_bilinear(picture, *(int(440 * side / min(shape)) for side in shape))
    top, left = (round((side - 384) / 2) for side in resized.shape[:2])
    expected = (resized[top : top + 384, left : left + 384] / 255 - MEAN) / STD
    np.testing.assert_allclose(preprocess(picture), expected.transpose(2, 0, 1), atol=2.01 / 255 / min(STD))


@settings(max_examples=10)
@given(st.integers(20, 600), st.integers(20, 600), st.integers(0, 999))
def test_training_picture_is_a_framed_input(height: int, width: int, seed: int) -> None:
    """Changes follow from the generator; `preprocess` cuts off the frame only."""
    picture = np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    changed = augment(picture, np.random.default_rng(seed))
    assert changed.shape == (440, 440, 3)
    assert np.array_equal(changed, augment(picture, np.random.default_rng(seed)))
    expected = ((changed[28:-28, 28:-28] / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(preprocess(changed), expected, atol=1e-5)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_change_keeps_384_px_and_most_of_the_picture(change: Change) -> None:
    """Each change acts, leaves 384 px a side, and keeps the mean within a quarter."""
    rows, columns = np.mgrid[:440, :500]
    image = Image.fromarray(np.stack([rows // 2, columns // 2, (rows + columns) // 4], -1).astype(np.uint8))
    changed = [change(image, np.random.default_rng(seed)) for seed in range(8)]
    assert any(each.size != image.size or each.tobytes() != image.tobytes() for each in changed)
    assert all(min(each.size) >= 384 and each.mode == "RGB" for each in changed)
    means = np.array([np.asarray(each).mean((0, 1)) for each in changed])
    np.testing.assert_allclose(means, np.broadcast_to(np.asarray(image).mean((0, 1)), means.shape), rtol=0.25)


def test_published_layout_loads(network: CommunityForensics, tmp_path: Path) -> None:
    """The names of timm below `vit.` load; a renamed key is named."""
    weights = {f"vit.{name}": value + 1 for name, value in network.vit.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    DESIGN.load(network, tmp_path / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    weights["vit.fc.weight"] = weights.pop("vit.head.weight")
    save_file(weights, tmp_path / "renamed.safetensors")
    with pytest.raises(WrongWeights, match=r"vit\.head\.weight.*vit\.fc\.weight.*OwensLab/commfor-model-384"):
        DESIGN.load(network, tmp_path / "renamed.safetensors")


def test_training_begins_with_imagenets_weights(network: CommunityForensics, tmp_path: Path) -> None:
    """A file for 1000 classes gives all but the output; another network's is refused."""
    weights = network.vit.state_dict() | {"head.weight": torch.zeros(1000, 384), "head.bias": torch.zeros(1000)}
    save_file(weights, tmp_path / "model.safetensors")
    begun = DESIGN.build({"imagenet": tmp_path / "model.safetensors"}).vit
    assert torch.equal(begun.blocks[11].mlp.fc2.weight, network.vit.blocks[11].mlp.fc2.weight)
    assert begun.head.weight.shape == (1, 384)
    save_file({"head.weight": weights["head.weight"]}, tmp_path / "other.safetensors")
    with pytest.raises(WrongWeights, match=r"augreg_in21k_ft_in1k"):
        DESIGN.build({"imagenet": tmp_path / "other.safetensors"})


def test_everything_is_trained(network: CommunityForensics, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss has a gradient for each parameter; two of the twelve blocks suffice to show it."""
    monkeypatch.setattr(network.vit, "blocks", network.vit.blocks[:2])
    assert not list_untrained(network, torch.randn(2, 3, 384, 384), torch.tensor([0.0, 1.0]))
