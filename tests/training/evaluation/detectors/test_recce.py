"""RECCE: its size, its input, the published layout, its losses and its gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.xception import Xception
from torch import Tensor

from tests.training.evaluation.detectors.published import interpolate, list_norm, list_untrained
from training.evaluation.detectors.recce import (
    DESIGN,
    Recce,
    add_noise,
    compute_metric_loss,
    compute_reconstruction_loss,
)
from training.evaluation.features.weights import WrongWeights

SIDE = 75  # of the tests' inputs; the network takes any


@pytest.fixture(scope="module")
def network() -> Recce:
    """A network with random weights."""
    torch.manual_seed(0)
    return Recce({})


def build_published() -> dict[str, Tensor]:
    """Return arrays of the published layout, each of one value that no other array has."""
    shapes: dict[str, tuple[int, ...]] = {
        f"encoder.{name}": tuple(value.shape) for name, value in Xception().state_dict().items()
    }
    shapes |= {"fc.weight": (1, 2048), "fc.bias": (1,), "decoder6.0.weight": (3, 64, 1, 1)}
    shapes |= {"attention.gated.0.weight": (3, 3, 3, 3), "attention.gated.2.weight": (1, 3, 1, 1)}
    shapes |= {"attention.h.0.weight": (728, 728, 1, 1)} | list_norm("attention.h.1", 728)
    for name, shape in {
        "va_embedding.0": (256, 728, 1, 1),
        "va_embedding.2": (256, 256, 1, 1),
        "va_gated_b.0": (256, 728, 1, 1),
        "va_gated_c.0": (256, 728, 1, 1),
        "vb_embedding.0": (256, 256),
        "vb_embedding.2": (256, 256),
        "vc_embedding.0": (256, 128),
        "vc_embedding.2": (256, 256),
        "reweight_ab.0": (1, 512),
        "reweight_ac.0": (1, 512),
        "reproject.0": (728, 768, 1, 1),
        "reproject.2": (728, 728, 1, 1),
    }.items():
        shapes[f"reasoning.{name}.weight"] = shape
    for stage, inputs, outputs in ((1, 728, 256), (3, 256, 128), (5, 128, 64)):
        shapes[f"decoder{stage}.1.conv1.weight"] = (inputs, 1, 3, 3)
        shapes[f"decoder{stage}.1.pointwise.weight"] = (outputs, inputs, 1, 1)
        shapes |= list_norm(f"decoder{stage}.2", outputs)
    for stage, width in ((2, 256), (4, 128)):
        for part in (1, 4, 7):
            shapes[f"decoder{stage}.rep.{part}.conv1.weight"] = (width, 1, 3, 3)
            shapes[f"decoder{stage}.rep.{part}.pointwise.weight"] = (width, width, 1, 1)
            shapes |= list_norm(f"decoder{stage}.rep.{part + 1}", width)
    return {name: torch.tensor(float(order)).expand(shape) for order, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("shape", [(340, 700, 3), (97, 64, 3)])
def test_input_is_the_published_one(shape: tuple[int, ...]) -> None:
    """A picture is interpolated to 299 positions a side and scaled to -1..1."""
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = interpolate(picture, 299)
    found = DESIGN.preprocess(picture)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1) / 127.5 - 1, atol=1.1 / 127.5)  # OpenCV rounds


@pytest.mark.parametrize("wrapped", [False, True])
def test_loads_the_published_layout(network: Recce, tmp_path: Path, *, wrapped: bool) -> None:
    """Each array gets into its place; a renamed key is refused."""
    published = build_published()
    path = tmp_path / "recce.bin"
    torch.save({"step": 1, "model": published} if wrapped else published, path)
    DESIGN.load(network, path)
    weights = network.state_dict()
    assert len({float(value.flatten()[0]) for value in weights.values()}) == len(weights)  # no array was used twice
    for own, name in {
        "encoder.block5.rep.1.conv1.weight": "encoder.block5.rep.1.conv1.weight",
        "decoder.1.rep.4.pointwise.weight": "decoder2.rep.4.pointwise.weight",
        "reasoning.finer.0.gate.0.weight": "reasoning.va_gated_b.0.weight",
        "reasoning.finer.1.embed.2.weight": "reasoning.vc_embedding.2.weight",
        "reasoning.finer.1.weigh.weight": "reasoning.reweight_ac.0.weight",
        "attention.enhance.1.running_var": "attention.h.1.running_var",
        "fc.weight": "fc.weight",
    }.items():
        assert torch.equal(weights[own], published[name])
    published["decoder7.0.weight"] = published.pop("decoder6.0.weight")
    torch.save({"model": published} if wrapped else published, path)
    with pytest.raises(WrongWeights, match=r"missing \(decoder\.5\.0\.weight\), 1 unknown \(decoder7\.0\.weight\)"):
        DESIGN.load(network, path)


def test_only_real_pictures_are_reconstructed() -> None:
    """The loss is of real pictures only; without any it is 0."""
    inputs, reconstructions = torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)
    found = compute_reconstruction_loss(reconstructions, inputs, torch.tensor([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, (reconstructions - inputs)[[0, 2]].abs().mean(), rtol=1e-5)
    assert compute_reconstruction_loss(reconstructions, inputs, torch.ones(3)) == 0


def test_the_metric_loss_is_the_published_one() -> None:
    """Real pictures are alike and unlike generated ones, whose pairs do not count."""
    maps, labels = torch.rand(5, 8, 3, 3, dtype=torch.float64), (0, 1, 0, 0, 1)
    pooled = maps.mean((2, 3)).numpy()
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    similarity = (pooled @ pooled.T + 1) / 2
    pairs = [(one, other) for one in range(5) for other in range(one)]
    within = np.mean([similarity[pair] for pair in pairs if labels[pair[0]] + labels[pair[1]] == 0])
    between = np.mean([similarity[pair] for pair in pairs if labels[pair[0]] + labels[pair[1]] == 1])
    found = compute_metric_loss(maps, torch.tensor(labels))
    np.testing.assert_allclose(found, 1 - within + between, rtol=1e-5)


def test_noise_is_on_half_of_the_pictures() -> None:
    """About half get noise of 1e-6, and none leaves -1..1."""
    torch.manual_seed(0)
    inputs = torch.zeros(400, 3, 8, 8, dtype=torch.float64)
    changes = add_noise(inputs).flatten(1)
    noisy = changes.any(dim=1)
    assert 150 < noisy.sum() < 250
    np.testing.assert_allclose(changes[noisy].std(), 1e-6, rtol=0.05)
    assert add_noise(torch.ones(8, 3, 8, 8, dtype=torch.float64)).max() == 1


def test_gradient_reaches_every_trained_part() -> None:
    """Each parameter but the encoder's unused last layer gets a gradient."""
    torch.manual_seed(0)
    network = Recce({})
    inputs = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
    without = list_untrained(network, inputs, torch.tensor([0.0, 1.0, 0.0]))
    assert without == {"encoder.fc.weight", "encoder.fc.bias"}
    assert not network.encoder.fc.weight.requires_grad
