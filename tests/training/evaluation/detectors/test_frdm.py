"""FRDM: its size, its input, the published layouts, its loss and its gradients."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.xception import Xception
from torch import Tensor

from tests.training.evaluation.detectors.published import list_norm, list_untrained
from training.evaluation.detectors.frdm import DESIGN, Frdm, compute_margin_loss
from training.evaluation.features.weights import WrongWeights


@pytest.fixture(scope="module")
def network() -> Frdm:
    """A network with random weights."""
    torch.manual_seed(0)
    return Frdm({})


def list_attention(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one dual cross-modality attention."""
    weights = {
        "key_conv1": (91, 728, 1, 1),
        "key_conv2": (91, 728, 1, 1),
        "key_conv_share": (91, 91, 1, 1),
        "linear1": (256, 256),
        "linear2": (256, 256),
        "value_conv1": (728, 728, 1, 1),
        "value_conv2": (728, 728, 1, 1),
    }
    shapes: dict[str, tuple[int, ...]] = {f"{name}.gamma{stream}": (1,) for stream in (1, 2)}
    for part, shape in weights.items():
        shapes |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[:1]}
    return shapes


def build_published(layout: str) -> dict[str, Tensor]:
    """Return arrays of a published layout, each of one value that no other array has."""
    last = "last_linear.1" if layout == "authors" else "last_linear"
    streams = ("xception_rgb.model", "xception_srm.model") if layout == "authors" else ("backbone_rgb", "backbone_srm")
    backbone = {name: tuple(value.shape) for name, value in Xception(num_classes=2).state_dict().items()}
    shapes = {f"{stream}.{name.replace('fc.', f'{last}.')}": backbone[name] for stream in streams for name in backbone}
    if layout == "bench":
        shapes["blur.weight"] = (3, 1, 7, 7)
        for stream in streams:
            shapes |= {
                f"{stream}.adjust_channel.0.weight": (512, 2048, 1, 1),
                f"{stream}.adjust_channel.0.bias": (512,),
            }
            shapes |= list_norm(f"{stream}.adjust_channel.1", 512)
    for name in ("srm_conv0", "srm_sa.srm"):
        shapes[f"{name}.kernel"] = (3, 3, 5, 5)
    for name, width in (("srm_conv1", 32), ("srm_conv2", 64)):
        shapes |= {f"{name}.kernel": (3 * width, 1, 5, 5), f"{name}.out_conv.0.weight": (width, 3 * width, 1, 1)}
        shapes |= list_norm(f"{name}.out_conv.1", width)
    shapes |= {"srm_sa.conv.0.weight": (32, 3, 3, 3), "srm_sa.conv.3.weight": (64, 32, 3, 3)}
    shapes |= list_norm("srm_sa.conv.1", 32) | list_norm("srm_sa.conv.4", 64) | {"srm_sa.pa.conv.weight": (1, 2, 7, 7)}
    shapes |= list_norm("srm_sa_post.0", 64) | list_attention("dual_cma0") | list_attention("dual_cma1")
    shapes |= {"fusion.convblk.0.weight": (2048, 4096, 1, 1)} | list_norm("fusion.convblk.1", 2048)
    shapes |= {"fusion.ca.sharedMLP.0.weight": (128, 2048, 1, 1), "fusion.ca.sharedMLP.2.weight": (2048, 128, 1, 1)}
    return {name: torch.tensor(float(order)).expand(shape) for order, (name, shape) in enumerate(shapes.items())}


def test_has_the_published_size(network: Frdm) -> None:
    """7,650 of the parameters are fixed filters."""
    filters = [value for name, value in network.named_parameters() if name.endswith("kernel")]
    assert sum(value.numel() for value in filters) == 7_650
    assert not any(value.requires_grad for value in filters)


@pytest.mark.parametrize("shape", [(300, 411, 3), (97, 64, 3)])
def test_input_is_the_published_one(
    shape: tuple[int, ...], pillow_bilinear: Callable[[np.ndarray, int, int], np.ndarray]
) -> None:
    """A picture is resized bilinearly to 256 px and scaled to -1..1."""
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = DESIGN.preprocess(picture)
    assert found.dtype == np.float32
    expected = pillow_bilinear(picture, 256, 256).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(found, expected, atol=1.1 / 127.5)


@pytest.mark.parametrize("layout", ["authors", "bench"])
def test_loads_the_published_layouts(network: Frdm, tmp_path: Path, layout: str) -> None:
    """Each array gets into its place; a renamed key is refused."""
    published = build_published(layout)
    path = tmp_path / "frdm.pth"
    torch.save(published, path)
    DESIGN.load(network, path)
    weights = network.state_dict()
    assert weights["fusion.residual"] == (layout == "authors")
    values = {float(value.flatten()[0]) for name, value in weights.items() if name != "fusion.residual"}
    assert len(values) == len(weights) - 1  # no array was used twice
    last, stream = (
        ("xception_rgb.model.last_linear.1.bias", "xception_srm.model.block5.rep.1.conv1.weight")
        if layout == "authors"
        else ("backbone_rgb.last_linear.bias", "backbone_srm.block5.rep.1.conv1.weight")
    )
    for own, name in {
        "rgb.fc.bias": last,
        "noise.block5.rep.1.conv1.weight": stream,
        "mixers.1.kernel": "srm_conv2.kernel",
        "spatial.weigh.weight": "srm_sa.pa.conv.weight",
        "attention.0.key_noise.weight": "dual_cma0.key_conv2.weight",
        "attention.1.value_rgb.bias": "dual_cma1.value_conv1.bias",
        "attention.1.gain_rgb": "dual_cma1.gamma1",
        "fusion.weigh.2.weight": "fusion.ca.sharedMLP.2.weight",
    }.items():
        assert torch.equal(weights[own], published[name])
    published["dual_cma0.gamma3"] = published.pop("dual_cma0.gamma1")
    torch.save(published, path)
    with pytest.raises(WrongWeights, match=r"missing \(attention\.0\.gain_rgb\), 1 unknown \(attention\.0\.gamma3\)"):
        DESIGN.load(network, path)


def test_the_margin_is_the_published_one() -> None:
    """The loss is a softmax of 30 times the outputs, less 0.45 at the label's."""
    outputs, labels = np.random.default_rng(0).normal(0, 0.3, (5, 2)), np.array([0, 1, 1, 0, 1])
    scaled = 30 * (outputs - 0.45 * np.eye(2)[labels])
    expected = np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(5), labels])
    found = compute_margin_loss(torch.from_numpy(outputs), torch.from_numpy(labels).float())
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_gradient_reaches_every_trained_part() -> None:
    """Each parameter that is not fixed gets a gradient once the gains leave 0."""
    torch.manual_seed(0)
    network = Frdm({})
    for name, value in network.named_parameters():
        if "gain" in name:
            torch.nn.init.ones_(value)
    without = list_untrained(network, torch.rand(1, 3, 256, 256) * 2 - 1, torch.ones(1))
    fixed = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert without == fixed
    assert {name for name in fixed if not name.endswith("kernel")} == {"noise.fc.weight", "noise.fc.bias"}
