"""The backbone of FRDM and RECCE."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.xception import Xception
from torch import Tensor

from training.evaluation.detectors.xception import build_xception, run_blocks, run_first, run_last, run_second
from training.evaluation.features.weights import WrongWeights


def build_published() -> dict[str, Tensor]:
    """Return arrays of the published layout: one value each, without counters."""
    names = [name for name in Xception().state_dict() if not name.endswith("num_batches_tracked")]
    shapes = Xception().state_dict()
    return {name: torch.tensor(float(order)).expand(shapes[name].shape) for order, name in enumerate(names)}


def test_starts_from_a_file(tmp_path: Path) -> None:
    """The file's arrays become the network's, but for a last layer of another size."""
    published = build_published()
    path = tmp_path / "xception.pth"
    torch.save(published, path)
    found = build_xception({"xception": path}, 2)
    assert found.fc.weight.shape == (2, 2048)
    for name, value in found.state_dict().items():
        if not name.startswith("fc.") and name in published:
            assert torch.equal(value, published[name])
    torch.save({f"module.{name}": value for name, value in published.items()}, path)
    with pytest.raises(WrongWeights, match=r"missing .* unknown \(module\."):
        build_xception({"xception": path}, 2)


def test_stages_are_the_whole_network() -> None:
    """The stages one after the other give the features of timm's own pass."""
    torch.manual_seed(0)
    backbone = build_xception({}, 2).eval()
    inputs = torch.rand(1, 3, 75, 75)
    with torch.inference_mode():
        staged = run_second(backbone, run_first(backbone, inputs))
        staged = run_last(backbone, run_blocks(backbone, 1, 12, staged)).relu()
        np.testing.assert_allclose(staged, backbone.forward_features(inputs), rtol=1e-5, atol=1e-6)
