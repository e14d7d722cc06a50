"""GramNet: input, Gram blocks, published layout, and what is trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from tests.training.evaluation.detectors.published import interpolate, list_untrained
from training.evaluation.detectors.gramnet import BLOCK_PARTS, BLOCKS, DESIGN, GramBlock, GramNet, augment, preprocess
from training.evaluation.features.weights import WrongWeights


@pytest.fixture(scope="module")
def network() -> GramNet:
    """The network with random weights."""
    torch.manual_seed(0)
    return DESIGN.build({})


def publish(network: GramNet) -> dict[str, torch.Tensor]:
    """Return the weights under the names of the published code."""
    names = {f"grams.{row}.{part}.": f"{BLOCKS[row][at]}." for row in range(6) for at, part in enumerate(BLOCK_PARTS)}
    names |= {"trunk.": "", "classify.": "fcnewr.", "scale": "scale.scale"}
    found = {}
    for name, value in network.state_dict().items():
        prefix = next(each for each in names if name.startswith(each))
        found[names[prefix] + name.removeprefix(prefix)] = value
    return found


@pytest.mark.parametrize("shape", [(512, 512), (333, 700), (64, 64), (1200, 1024)])
def test_input_is_blue_green_red_of_512_px(shape: tuple[int, int]) -> None:
    """The picture is interpolated between four neighbours, not normalised or smoothed."""
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    inputs = preprocess(picture)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, interpolate(picture, 512)[:, :, ::-1].transpose(2, 0, 1), atol=1.01)


def test_training_picture_is_small_and_square() -> None:
    """A picture with random changes has 64 to 256 px and follows from the generator."""
    picture = np.random.default_rng(0).integers(0, 256, (90, 300, 3), dtype=np.uint8)
    shapes = {augment(picture, np.random.default_rng(seed)).shape for seed in range(300)}
    assert all(height == width and 64 <= height <= 256 for height, width, _ in shapes)
    assert len(shapes) > 100
    assert np.array_equal(augment(picture, np.random.default_rng(1)), augment(picture, np.random.default_rng(1)))


def test_gram_block_ignores_where_a_texture_is() -> None:
    """The same single pixels at other places have the same Gram matrix."""
    torch.manual_seed(0)
    block = GramBlock(4).eval()
    block.textures[0] = nn.Conv2d(4, 32, 1, bias=False)
    maps = torch.randn(2, 4, 8, 8)
    moved = maps.flatten(2)[:, :, torch.randperm(64)].reshape(maps.shape)
    with torch.inference_mode():
        torch.testing.assert_close(block(maps), block(moved))
        assert not torch.allclose(block(maps), block(maps.flip(1)))


def test_published_layout_loads(network: GramNet, tmp_path: Path) -> None:
    """A state dictionary with the published names gives the same logits; a renamed key is named."""
    assert len(publish(network)) == 233
    torch.save(publish(network), tmp_path / "stylegan-ffhq.pth")
    loaded = DESIGN.build({})
    DESIGN.load(loaded, tmp_path / "stylegan-ffhq.pth")
    inputs = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        torch.testing.assert_close(loaded.eval()(inputs), network.eval()(inputs))
    weights = publish(network)
    weights["g1_fc1.0.weight"] = weights.pop("g_fc1r.0.weight")
    torch.save(weights, tmp_path / "renamed.pth")
    with pytest.raises(WrongWeights, match=r"grams\.2\.reduce\.0\.weight.*g1_fc1\.0\.weight.*state_dict"):
        DESIGN.load(loaded, tmp_path / "renamed.pth")


def test_pickled_module_is_not_read(network: GramNet, tmp_path: Path) -> None:
    """The linked files contain code: the error says what to save instead."""
    torch.save(network, tmp_path / "stylegan-ffhq.pth")
    with pytest.raises(WrongWeights, match=r"other than tensors.*it should be the `state_dict\(\)`"):
        DESIGN.load(network, tmp_path / "stylegan-ffhq.pth")


def test_training_begins_with_imagenets_weights(tmp_path: Path) -> None:
    """The ResNet has the given file's weights, without its last layer."""
    torch.manual_seed(1)
    resnet = resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    trunk = DESIGN.build({"imagenet": tmp_path / "resnet18.pth"}).trunk
    assert torch.equal(trunk.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)


def test_logit_has_the_published_loss(network: GramNet) -> None:
    """The published loss is the log-likelihood of (generated, real)."""
    inputs, labels = torch.rand(4, 3, 64, 64) * 255, torch.tensor([0.0, 1.0, 1.0, 0.0])
    captured: list[torch.Tensor] = []
    hook = network.eval().classify.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    loss = network.loss(inputs, labels)
    hook.remove()
    torch.testing.assert_close(loss, nn.functional.nll_loss(captured[0].log_softmax(1), 1 - labels.long()))


def test_everything_is_trained(network: GramNet) -> None:
    """The loss has a gradient for each parameter."""
    assert not list_untrained(network, torch.rand(4, 3, 64, 64) * 255, torch.tensor([0.0, 1.0, 1.0, 0.0]))
