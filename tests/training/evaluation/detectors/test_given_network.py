"""A ResNet-50 over a given network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from tests.training.evaluation.detectors.published import IMAGENET, list_untrained
from training.evaluation.detectors.base import WeightsAbsent
from training.evaluation.detectors.catalogue import find_design
from training.evaluation.detectors.given_network import (
    PARAMETERS,
    GivenNetworkDetector,
    crop_centre,
    crop_randomly,
    load_classifier,
)
from training.evaluation.features.weights import WrongWeights

pytestmark = pytest.mark.slow


class Darkened(GivenNetworkDetector):
    """Multiplies pictures of 0..255 by the given network."""

    def transform(self, inputs: Tensor) -> Tensor:
        """See `GivenNetworkDetector`."""
        return self.given(inputs)


@pytest.fixture
def given() -> nn.Module:
    """A network with a parameter and a batch normalisation."""
    return nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dire", r"give unet=PATH.*google/ddpm-celebahq-256"),
        ("lgrad", r"give given=PATH.*github.com/chuangchuangtan/LGrad"),
    ],
)
def test_designs_state_the_published_parameters(name: str, sentence: str) -> None:
    """The ResNet-50 has the release's number; an absent given network is named."""
    design = find_design(name)
    assert design.parameters == 23_510_081
    with pytest.raises(WeightsAbsent, match=sentence):
        design.check_files({})


def test_only_the_classifier_is_trained_and_saved(given: nn.Module) -> None:
    """The given network keeps weights and mode; all of the ResNet-50 is trained."""
    torch.manual_seed(0)
    network = Darkened(given, 64, {}).train()
    assert sum(each.numel() for each in network.parameters()) == PARAMETERS
    assert {name.split(".")[0] for name in network.state_dict()} == {"classifier"}
    assert not given.training
    inputs = torch.rand(2, 3, 230, 226) * 255
    assert not list_untrained(network, inputs[..., :226, :], torch.tensor([0.0, 1.0]))
    assert all(each.grad is None for each in given.parameters())
    assert network.double().given[0].weight.dtype == torch.float64


def test_evaluation_normalises_the_centre_as_numpy_does() -> None:
    """In evaluation mode the classifier gets the central square with ImageNet's normalisation."""
    network = Darkened(nn.Identity(), 224, {}).eval()
    network.classifier = nn.Sequential(nn.Flatten(), nn.Identity())  # shows its input
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 256, 256)).astype(np.float32)
    mean, std = np.array(IMAGENET)
    centre = pictures[:, :, 16:240, 16:240].transpose(0, 2, 3, 1)
    expected = ((centre / 255 - mean) / std).transpose(0, 3, 1, 2).reshape(2, -1)
    np.testing.assert_allclose(network(torch.from_numpy(pictures)), expected[:, 0], atol=1e-5)
    seen = network.classifier(crop_centre(torch.from_numpy(pictures), 224))
    np.testing.assert_array_equal(seen, pictures[:, :, 16:240, 16:240].reshape(2, -1))


def test_random_crops_are_parts_of_the_pictures() -> None:
    """Each crop of 224 px, or its mirror image, is in its picture, at varying places."""
    torch.manual_seed(1)
    pictures = torch.arange(256 * 256).reshape(1, 1, 256, 256).repeat(16, 1, 1, 1)
    places = set()
    for crop in crop_randomly(pictures):
        first, last = int(crop[0, 0].min()), int(crop[0, -1].max())
        assert (last - first, crop.shape) == (223 * 256 + 223, (1, 224, 224))
        places.add((first, bool(crop[0, 0, 0] > crop[0, 0, 1])))
    assert len(places) > 8
    assert {mirrored for _, mirrored in places} == {False, True}


@pytest.mark.parametrize("wrapped", [False, True], ids=["arrays", "under model"])
def test_published_layouts_load_strictly(wrapped: bool, given: nn.Module, tmp_path: Path) -> None:  # noqa: FBT001
    """Plain arrays (LGrad) and those under `model` (DIRE) load; a renamed key is refused by name."""
    torch.manual_seed(2)
    arrays = resnet50(weights=None, num_classes=1).state_dict()
    path = tmp_path / "published.pth"
    torch.save({"model": arrays, "total_steps": 7} if wrapped else arrays, path)
    network = Darkened(given, 224, {})
    load_classifier(network, path, "a ResNet-50")
    assert torch.equal(network.classifier.fc.weight, arrays["fc.weight"])
    arrays["fc.wait"] = arrays.pop("fc.weight")
    torch.save({"model": arrays} if wrapped else arrays, path)
    with pytest.raises(WrongWeights, match=r"1 missing \(fc.weight\), 1 unknown \(fc.wait\); it should be a ResNet-50"):
        load_classifier(network, path, "a ResNet-50")


def test_training_begins_with_given_weights(given: nn.Module, tmp_path: Path) -> None:
    """The file `initial` gives all layers but the last."""
    torch.manual_seed(3)
    arrays = resnet50(weights=None).state_dict()
    path = tmp_path / "resnet50.pth"
    torch.save(arrays, path)
    begun = Darkened(given, 224, {"initial": path}).classifier.state_dict()
    assert begun["fc.weight"].shape == (1, 2048)
    assert torch.equal(begun["layer4.2.conv3.weight"], arrays["layer4.2.conv3.weight"])
