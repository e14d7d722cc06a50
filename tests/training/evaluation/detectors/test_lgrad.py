"""LGrad: gradients of a given network, and published layouts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torchvision.models import resnet50

from training.evaluation.detectors import gan_discriminator
from training.evaluation.detectors.gan_discriminator import Discriminator, EqualisedLayer
from training.evaluation.detectors.lgrad import LGrad, build, preprocess
from training.evaluation.features.weights import WrongWeights

# Measured with the networks of the release (genforce's PGGANDiscriminator and StyleGANDiscriminator for 256 px).
DISCRIMINATOR_PARAMETERS = 23_052_353
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


class Quadratic(nn.Module):
    """Half of the sum of squares weighted by position; its gradient is known."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return [N, 1]."""
        return (self.weights * pictures**2).sum((1, 2, 3))[:, None] / 2


def test_preprocessing_stretches_to_256() -> None:
    """256 px are only divided by 255; others equal torch's antialiased resize."""
    rng = np.random.default_rng(0)
    same = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(preprocess(same), same.transpose(2, 0, 1).astype(np.float32) / 255)
    other = rng.integers(0, 256, (300, 420, 3), dtype=np.uint8)
    planes = torch.from_numpy(other).permute(2, 0, 1)[None].float()
    resized = nn.functional.interpolate(planes, (256, 256), mode="bilinear", antialias=True, align_corners=False)
    np.testing.assert_allclose(preprocess(other), resized[0] / 255, atol=1.01 / 255)


def test_gradients_equal_numpy() -> None:
    """Gradients at the normalised picture are scaled to whole numbers 0..255."""
    rng = np.random.default_rng(1)
    weights, inputs = rng.normal(size=(3, 8, 8)), rng.random((2, 3, 8, 8))
    network = LGrad(Quadratic(torch.from_numpy(weights)), MEAN, STD, {}).double()
    columns = np.array([MEAN, STD]).reshape(2, 3, 1, 1)
    gradients = weights * (inputs - columns[0]) / columns[1]
    low, high = (reduce(gradients, axis=(1, 2, 3), keepdims=True) for reduce in (np.min, np.max))
    with torch.inference_mode():
        found = network.transform(torch.from_numpy(inputs)).numpy()
    np.testing.assert_array_equal(found, np.rint((gradients - low) / (high - low) * 255))


def test_constant_gradients_become_black() -> None:
    """A given network that ignores the picture gives no NaN."""
    network = LGrad(Quadratic(torch.zeros(3, 8, 8)), MEAN, STD, {})
    assert not network.transform(torch.rand(1, 3, 8, 8)).any()


@pytest.mark.parametrize("stylegan", [False, True], ids=["progan", "stylegan"])
def test_discriminators_load_in_the_published_layout(
    stylegan: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The layout decides; a renamed key and an unfinished training are refused."""
    with torch.device("meta"):
        assert sum(each.numel() for each in Discriminator(stylegan=stylegan).parameters()) == DISCRIMINATOR_PARAMETERS
    monkeypatch.setattr(gan_discriminator, "count_maps", lambda side: min(1024 // side, 8))
    arrays = Discriminator(stylegan=stylegan).state_dict()
    assert ("layer1.blur.kernel" in arrays) == stylegan
    path = tmp_path / "discriminator.pth"
    torch.save(arrays, path)
    given = build({"given": path}).given
    assert all(torch.equal(value, arrays[name]) for name, value in given.state_dict().items())
    torch.save(arrays | {"lod": torch.tensor(2.0)}, path)
    with pytest.raises(WrongWeights, match="unfinished progressive training"):
        build({"given": path})
    torch.save({name.replace("layer14.bias", "last.bias"): value for name, value in arrays.items()}, path)
    with pytest.raises(WrongWeights, match=r"1 missing \(layer14.bias\), 1 unknown \(last.bias\)"):
        build({"given": path})


def test_pictures_of_a_batch_do_not_change_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture has the same value in a batch and alone, here with fewer maps."""
    torch.manual_seed(3)
    monkeypatch.setattr(gan_discriminator, "count_maps", lambda side: min(1024 // side, 8))
    discriminator = Discriminator(stylegan=True)
    pictures = torch.rand(2, 3, 256, 256)
    with torch.inference_mode():
        together = discriminator(pictures)
        alone = discriminator(pictures[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)


def test_fused_halving_equals_convolution_and_average() -> None:
    """StyleGAN's fused step is a convolution followed by the average of 2 x 2 values."""
    torch.manual_seed(4)
    layer = EqualisedLayer(5, 4, 3, 3, blurred=True)
    nn.init.normal_(layer.bias)
    x = torch.rand(1, 4, 16, 16)
    torch.testing.assert_close(layer.halve(x), avg_pool2d(layer(x), 2), atol=1e-5, rtol=1e-5)


def test_classifier_of_torchvision_is_a_given_network(tmp_path: Path) -> None:
    """A ResNet-50 for ImageNet gets ImageNet's normalisation."""
    torch.manual_seed(5)
    path = tmp_path / "resnet50.pth"
    torch.save(resnet50(weights=None).state_dict(), path)
    network = build({"given": path})
    assert network.given.fc.out_features == 1000
    np.testing.assert_allclose(network.get_buffer("given_mean").flatten(), (0.485, 0.456, 0.406))
