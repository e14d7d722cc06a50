"""Each detector, trained shortly on toy pictures, scores generated ones higher."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from tests.training.evaluation.detectors import tiny_detector
from tests.training.evaluation.detectors.tiny_detector import draw_pictures, write_filters
from training.evaluation.detectors.base import Design
from training.evaluation.detectors.baseline import open_baseline
from training.evaluation.detectors.catalogue import DETECTORS, find_design
from training.evaluation.detectors.train_baseline import BaselineOptions, train_baseline
from training.evaluation.measures import auc

BATCH = 4
STEPS = 60  # batch normalisation keeps 0.2 % of its initial statistics; without it, the 12 of the tiny network suffice
RATE = 1e-3  # publications train for thousands of steps, many with lower rates
TINY = "tiny"


def write_tower(folder: Path) -> dict[str, Path]:
    """Write a CLIP tower of one narrow layer, in open_clip's layout."""
    from tests.training.evaluation.detectors import test_univfd  # noqa: PLC0415 - the quick case needs no large package

    return {"clip": test_univfd.write_tower(folder / "clip.safetensors")}


def write_classifier(folder: Path) -> dict[str, Path]:
    """Write a ResNet-50 in torchvision's layout, whose gradients differ between bright and dark pictures.

    Half of the first filters are flat and positive, so that a bright picture passes them; the others are chequered with
    a negative sum, so that a dark one does.
    """
    from torchvision.models import resnet50  # noqa: PLC0415 - the quick case needs no large package

    weights = resnet50(weights=None).state_dict()
    filters, rows = weights["conv1.weight"], torch.arange(7)
    flat = torch.ones(7, 7) / 49
    filters[:32] = flat
    filters[32:] = (1 - 2 * ((rows[:, None] + rows) % 2)) / 7 - flat
    save_file(weights, folder / "given.safetensors")
    return {"given": folder / "given.safetensors"}


def write_unet(folder: Path) -> dict[str, Path]:
    """Write a diffusion network of one narrow level, in diffusers' layout."""
    from diffusers import UNet2DModel  # noqa: PLC0415 - the quick case needs no large package

    UNet2DModel(
        sample_size=256,
        block_out_channels=(4,),
        norm_num_groups=2,
        layers_per_block=1,
        mid_block_type=None,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        add_attention=False,
    ).save_pretrained(folder)
    return {"unet": folder / "config.json"}


# What a design needs before it can be trained: small files of the published layouts with random weights.
FILES: Mapping[str, Callable[[Path], dict[str, Path]]] = {
    TINY: write_filters,
    "univfd": write_tower,
    "lgrad": write_classifier,
    "dire": write_unet,
}


def find(name: str) -> Design:
    """Return a design of the catalogue or the tiny one, with a rate for few steps."""
    design = tiny_detector.DESIGN if name == TINY else find_design(name)
    return replace(design, rule=replace(design.rule, rate=max(design.rule.rate, RATE)))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("npr", 1_437_761),  # the publication states 1.44 million
        ("gramnet", 11_734_723),
        ("community_forensics", 21_811_969),
        ("recce", 25_830_509),  # with the unused last layer of its encoder
        ("frdm", 53_250_128),
    ],
)
def test_parameters_are_the_publications(name: str, count: int) -> None:
    """A network has as many parameters as the published one."""
    design = find_design(name)
    assert sum(value.numel() for value in design.build({}).parameters()) == design.parameters == count


@pytest.mark.parametrize("name", [TINY, *(pytest.param(name, marks=pytest.mark.long) for name in DETECTORS)])
def test_generated_pictures_get_the_higher_scores(name: str, tmp_path: Path) -> None:
    """On new toy pictures nearly all pairs are ranked right."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    files = FILES[name](tmp_path) if name in FILES else {}
    design = find(name)
    options = BaselineOptions(
        steps=12 if name == TINY else STEPS, batch_size=BATCH, files=files, console=Console(quiet=True)
    )
    facts = train_baseline(design, draw_pictures(16, 2), tmp_path, options)
    assert facts["parameters"] == design.parameters or name in FILES  # small files make small networks
    detector, others = open_baseline(design, tmp_path), draw_pictures(6, 0, seed=1)
    assert detector.higher_is_generated
    real, generated = (detector.score_batch(each).astype(np.float64) for each in (others.real, others.generated))
    assert auc(-real, -generated) > 0.9
