"""NPR: input, relations of neighbouring pixels, published layout, and what is trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.evaluation.detectors.published import IMAGENET, list_untrained
from training.evaluation.detectors.npr import DESIGN, NPR, augment, preprocess, relate_neighbours
from training.evaluation.features.weights import WrongWeights

MEAN, STD = IMAGENET


@pytest.fixture(scope="module")
def network() -> NPR:
    """The network with random weights."""
    torch.manual_seed(0)
    return DESIGN.build({})


@pytest.mark.parametrize("shape", [(256, 256), (300, 517), (90, 64)])
def test_input_is_resized_to_256_px(
    shape: tuple[int, int], pillow_bilinear: Callable[[np.ndarray, int, int], np.ndarray]
) -> None:
    """Both sides are resized to 256 px and normalised as for ImageNet, within two grey levels."""
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = (pillow_bilinear(picture, 256, 256) / 255 - MEAN) / STD
    np.testing.assert_allclose(preprocess(picture), expected.transpose(2, 0, 1), atol=2.01 / 255 / min(STD))


def test_half_of_the_training_pictures_are_mirrored() -> None:
    """A picture with random changes is the picture or its mirror image."""
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    changed = [augment(picture, np.random.default_rng(seed)) for seed in range(40)]
    mirrored = [np.array_equal(each, picture[:, ::-1]) for each in changed]
    assert 8 < sum(mirrored) < 32
    assert all(np.array_equal(each, picture) for each, turned in zip(changed, mirrored, strict=True) if not turned)


def test_relations_are_those_inside_squares() -> None:
    """Pixels are relative to the first of their 2 x 2 square; enlarged ones are 0."""
    inputs = torch.arange(16.0).reshape(1, 1, 4, 4)
    inside = [[0.0, 1.0], [4.0, 5.0]]
    torch.testing.assert_close(relate_neighbours(inputs)[0, 0], torch.tensor(inside).repeat(2, 2))
    enlarged = torch.rand(2, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert not relate_neighbours(enlarged).any()


def test_published_layout_loads(network: NPR, tmp_path: Path) -> None:
    """The published names give the same logits; a renamed key is named."""
    weights = dict(network.state_dict())
    assert {name.split(".")[0] for name in weights} == {"conv1", "bn1", "layer1", "layer2", "fc1"}
    torch.save(weights, tmp_path / "NPR.pth")
    loaded = DESIGN.build({})
    DESIGN.load(loaded, tmp_path / "NPR.pth")
    inputs = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.eval()(inputs), network.eval()(inputs))
    weights["fc.weight"] = weights.pop("fc1.weight")
    torch.save(weights, tmp_path / "renamed.pth")
    with pytest.raises(WrongWeights, match=r"fc1\.weight.*fc\.weight.*it should be NPR\.pth"):
        DESIGN.load(loaded, tmp_path / "renamed.pth")


def test_everything_is_trained_on_224_px(network: NPR) -> None:
    """The loss is that of a crop of 224 px and has a gradient for each parameter."""
    seen: list[torch.Size] = []
    hook = network.conv1.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    assert not list_untrained(network, torch.randn(2, 3, 256, 256), torch.tensor([0.0, 1.0]))
    hook.remove()
    assert seen == [(2, 3, 224, 224)]
