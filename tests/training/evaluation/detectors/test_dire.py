"""DIRE: the publication's equations, and U-Nets of diffusers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.training.evaluation.detectors.test_orientation import write_unet
from training.evaluation.detectors.catalogue import find_design
from training.evaluation.detectors.dire import Dire, build, preprocess
from training.evaluation.features.weights import WrongWeights

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Predictor(nn.Module):
    """Predicts noise and, as ADM, variances; depends on the picture and on the time."""

    def forward(self, pictures: Tensor, time: int) -> SimpleNamespace:
        """Return an object with `sample` [N, 6, S, S]."""
        noise = torch.sin(3 * pictures) + time / 1000
        return SimpleNamespace(sample=torch.cat([noise, torch.full_like(noise, torch.nan)], dim=1))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a tiny U-Net for 256 px, with its weights."""
    torch.manual_seed(0)
    return write_unet(tmp_path)["unet"]


def reconstruct(pictures: np.ndarray) -> np.ndarray:
    """Return the reconstruction as guided-diffusion computes it, with 20 of 1,000 steps."""
    levels = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[::50]

    def move(x: np.ndarray, step: int, target: float) -> np.ndarray:
        level = levels[step]
        predicted = np.sin(3 * x) + step * 50 / 1000
        clean = np.clip(np.sqrt(1 / level) * x - np.sqrt(1 / level - 1) * predicted, -1, 1)
        noise = (np.sqrt(1 / level) * x - clean) / np.sqrt(1 / level - 1)
        return clean * np.sqrt(target) + np.sqrt(1 - target) * noise

    for step in range(20):
        pictures = move(pictures, step, [*levels[1:], 0.0][step])
    for step in reversed(range(20)):
        pictures = move(pictures, step, [1.0, *levels[:-1]][step])
    return pictures


def test_reconstruction_equals_numpy() -> None:
    """The errors of several batches equal a NumPy transcription, as whole numbers 0..255."""
    network = Dire(Predictor(), DDIMScheduler(), {}).double()
    pictures = np.random.default_rng(0).uniform(-1, 1, (9, 3, 4, 4))
    expected = reconstruct(pictures)
    assert np.abs(expected - pictures).mean() > 0.05
    np.testing.assert_allclose(network.reconstruct(torch.from_numpy(pictures)), expected, atol=1e-4)
    errors = network.transform(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose(errors, np.floor(np.clip(np.abs(pictures - expected) * 127.5, 0, 255)), atol=1)
    assert (errors == np.floor(errors)).all()


def test_preprocessing_equals_numpy() -> None:
    """A picture of twice the size is averaged over 2 x 2 pixels and its central square is taken."""
    picture = np.random.default_rng(1).integers(0, 256, (512, 700, 3), dtype=np.uint8)
    columns = np.floor(picture.reshape(512, 350, 2, 3).mean(axis=2) + 0.5)  # Pillow rounds after each direction
    rows = np.floor(columns.reshape(256, 2, 350, 3).mean(axis=1) + 0.5)
    expected = rows[:, 47:303].transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(preprocess(picture), expected, atol=1e-6)
    small = np.asarray(Image.fromarray(picture).resize((100, 90)))
    assert preprocess(small).shape == (3, 256, 256)


def test_unet_loads_from_its_folder(config: Path) -> None:
    """The weights beside `config.json` are loaded, and the U-Net is no part of what is trained."""
    network = build({"unet": config})
    loaded, stored = network.given.state_dict(), load_file(config.with_name(WEIGHTS))
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())
    assert sum(each.numel() for each in network.parameters()) == find_design("dire").parameters
    assert network.transform(torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_schedule_beside_the_unet_counts(config: Path) -> None:
    """Another noise schedule in the folder changes the errors."""
    picture = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    usual = build({"unet": config}).transform(picture)
    DDIMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(config.parent)
    assert (build({"unet": config}).transform(picture) - usual).abs().max() > 1
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(config.parent)
    with pytest.raises(WrongWeights, match="predicts v_prediction instead of epsilon"):
        build({"unet": config})


def test_other_networks_are_refused(config: Path) -> None:
    """Other keys, weights, sizes and classes are refused, each with one sentence."""
    weights, described = config.with_name(WEIGHTS), json.loads(config.read_text())
    arrays = load_file(weights)
    save_file({name.replace("conv_out.bias", "last.bias"): value for name, value in arrays.items()}, weights)
    with pytest.raises(WrongWeights, match=r"missing \(conv_out.bias.*unknown \(last.bias.*it should be the config"):
        build({"unet": config})
    save_file(arrays, weights)
    config.write_text(json.dumps(described | {"sample_size": 64}))
    with pytest.raises(WrongWeights, match="is for 64 px"):
        build({"unet": config})
    config.write_text(json.dumps(described | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(WrongWeights, match="describes no UNet2DModel"):
        build({"unet": config})
    config.write_text(json.dumps(described))
    weights.unlink()
    with pytest.raises(WrongWeights, match=r"has no weights that fit its config.json"):
        build({"unet": config})
