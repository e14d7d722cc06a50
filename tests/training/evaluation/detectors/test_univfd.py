"""UnivFD: input, published linear layer, and what is trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import save_file

from tests.training.evaluation.detectors.published import list_untrained
from training.evaluation.detectors.base import WeightsAbsent
from training.evaluation.detectors.univfd import DESIGN, UnivFD, augment, preprocess
from training.evaluation.features.weights import WrongWeights

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def write_tower(path: Path, outputs: int = 768) -> Path:
    """Write a small image tower in open_clip's published layout."""
    torch.manual_seed(0)
    tower = VisionTransformer(224, 56, 64, layers=1, heads=1, mlp_ratio=4, output_dim=outputs, act_layer=QuickGELU)
    save_file({f"visual.{name}": value.contiguous() for name, value in tower.state_dict().items()}, path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> UnivFD:
    """The network with a small tower."""
    return DESIGN.build({"clip": write_tower(tmp_path / "open_clip_model.safetensors")})


def test_parameters_are_the_publications() -> None:
    """OpenAI's ViT-L/14 has 303,966,208 parameters, and the trained layer 769."""
    with torch.device("meta"):
        tower = VisionTransformer(224, 14, 1024, layers=24, heads=16, mlp_ratio=4, output_dim=768, act_layer=QuickGELU)
        network = UnivFD(tower)
    assert sum(value.numel() for value in network.parameters()) == DESIGN.parameters == 303_966_208 + 769
    assert sum(value.numel() for value in network.parameters() if value.requires_grad) == 769


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 9))
def test_input_is_the_unresized_centre(height: int, width: int, seed: int) -> None:
    """The central 224 px keep their values; what is missing on each side is black."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    sides = [((224 - side) // 2, (225 - side) // 2) if side < 224 else (0, 0) for side in (height, width)]
    padded = np.pad(picture, (*sides, (0, 0)))
    top, left = (round((side - 224) / 2) for side in padded.shape[:2])
    expected = (padded[top : top + 224, left : left + 224] / 255 - MEAN) / STD
    np.testing.assert_allclose(preprocess(picture), expected.transpose(2, 0, 1), atol=1e-5)


@given(st.integers(20, 400), st.integers(20, 400), st.integers(0, 99))
def test_training_picture_is_a_whole_input(height: int, width: int, seed: int) -> None:
    """A changed picture has 224 px and is only normalised afterwards."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    changed = augment(picture, np.random.default_rng(seed))
    assert changed.shape == (224, 224, 3)
    assert np.array_equal(changed, augment(picture, np.random.default_rng(seed)))
    np.testing.assert_allclose(preprocess(changed), ((changed / 255 - MEAN) / STD).transpose(2, 0, 1), atol=1e-5)


def test_published_layer_is_applied_to_the_embedding(network: UnivFD, tmp_path: Path) -> None:
    """The file's `weight` and `bias` are applied to the embedding."""
    weight, bias = torch.randn(1, 768), torch.randn(1)
    torch.save({"weight": weight, "bias": bias}, tmp_path / "fc_weights.pth")
    DESIGN.load(network.eval(), tmp_path / "fc_weights.pth")
    inputs = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(network(inputs), (network.tower(inputs) @ weight.T + bias)[:, 0])


def test_other_files_are_refused(network: UnivFD, tmp_path: Path) -> None:
    """Other keys, a tower of another size and an absent one name the right file."""
    torch.save({"fc.weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "fc_weights.pth")
    with pytest.raises(WrongWeights, match=r"fc\.weight.* it should be .*fc_weights\.pth of github\.com"):
        DESIGN.load(network, tmp_path / "fc_weights.pth")
    with pytest.raises(WrongWeights, match=r"512 outputs instead of 768: use OpenAI's ViT-L/14"):
        DESIGN.build({"clip": write_tower(tmp_path / "base.safetensors", 512)})
    with pytest.raises(WeightsAbsent, match=r"UnivFD needs .*clip=PATH.*vit_large_patch14_clip_224\.openai"):
        DESIGN.check_files({})


def test_only_the_layer_is_trained(network: UnivFD) -> None:
    """The loss has a gradient for the linear layer and for nothing else."""
    without = list_untrained(network, torch.randn(2, 3, 224, 224), torch.tensor([0.0, 1.0]))
    assert {name for name, _ in network.named_parameters()} - without == {"linear.weight", "linear.bias"}
