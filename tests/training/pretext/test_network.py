"""The extractor, its export, its frozen parts, and a run from photographs to a checkpoint."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from ingest.detect import DetectorSpec, load_detector
from ingest.exif import TAG_NAMES
from ingest.formats.header import EXIF_IFD
from ingest.network_files import list_network_files, unpack
from ingest.spec import PreprocessSpec
from tests.training.data.drawn_photos import FixedLandmarks
from training.data.chunks import PrepareProgress, prepare_photos
from training.data.cutting import FaceCutter
from training.data.detector import copy_detector
from training.data.indexing import index_run
from training.data.inputs import list_inputs
from training.data.photos import FolderPhotos
from training.data.roles import RoleRule
from training.data.shards import load_role
from training.export.features import extract_features
from training.export.openvino import convert_extractor, export_extractor, write_model
from training.pretext.backbone import Normalise
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import PretextNetwork, build_network
from training.pretext.trainer import train_extractor
from training.recipes import PAPER_FEATURES, AugmentRule, paper, starter


@pytest.fixture(scope="module")
def network() -> PretextNetwork:
    """The starter's network with ImageNet weights."""
    torch.manual_seed(0)
    return build_network(dataclasses.replace(starter(), frozen_blocks=9))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Four smooth random crops."""
    rng = np.random.default_rng(0)
    return np.stack(
        [
            np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((224, 224)))
            for _ in range(4)
        ]
    )


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """A small extractor with the same interface, which is converted in a second."""
    torch.manual_seed(1)
    return nn.Sequential(
        Normalise(PreprocessSpec()),
        nn.Conv2d(3, 64, 4, 16),  # few weights: the first convolution is not quantised
        nn.ReLU6(),
        nn.Conv2d(64, PAPER_FEATURES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()


def test_exported_graph_equals_the_network(small: nn.Module, crops: np.ndarray, tmp_path: Path) -> None:
    """The FP32 graph takes raw uint8 crops and gives the network's features."""
    path = tmp_path / "model.xml.xz"
    write_model(convert_extractor(small, 224), path, "fp32")
    with torch.inference_mode():
        expected = small(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(extract_features(path, crops, 1, PAPER_FEATURES), expected, atol=1e-4)


def test_quantised_graphs_are_small_and_keep_the_features(small: nn.Module, crops: np.ndarray, tmp_path: Path) -> None:
    """Int8 has a third of FP32's size, similar features, and no path of this machine."""
    sizes, features = {}, {}
    for kind in ("fp32", "int8"):
        path = export_extractor(small, tmp_path / kind, kind, crops)
        sizes[kind] = list_network_files(path)[1].stat().st_size
        features[kind] = extract_features(path, crops, 1, PAPER_FEATURES)
        graph = unpack(path.read_bytes())
        assert str(tmp_path).encode() not in graph
        assert str(Path.cwd()).encode() not in graph
    assert sizes["int8"] < 0.35 * sizes["fp32"]
    assert np.corrcoef(features["fp32"].ravel(), features["int8"].ravel())[0, 1] > 0.98


def test_frozen_blocks_and_batch_statistics_do_not_change(network: PretextNetwork, crops: np.ndarray) -> None:
    """Frozen weights get no gradient, and only the new layer's statistics change."""
    network.train()
    extractor = network.extractor
    before, new = (
        extractor.blocks[-1].get_submodule("_bn2").running_mean.clone(),
        extractor.widen[1].running_mean.clone(),
    )
    scores, _ = network(torch.from_numpy(crops))
    scores.sum().backward()
    assert torch.equal(extractor.blocks[-1].get_submodule("_bn2").running_mean, before)
    assert not torch.equal(extractor.widen[1].running_mean, new)
    assert network.extractor.stem[0].weight.grad is None
    assert extractor.widen[0].weight.grad is not None
    network.zero_grad()


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("frozen_statistics", [True, False])
def test_frozen_parts_of_both_backbones_do_not_change(backbone: str, *, frozen_statistics: bool) -> None:
    """Frozen blocks keep weights and statistics; others keep statistics by recipe."""
    recipe = dataclasses.replace(paper(), backbone=backbone, frozen_blocks=2, frozen_statistics=frozen_statistics)
    network = build_network(recipe).train()
    frozen = {
        "resnet50": ("trunk.conv1.", "trunk.bn1.", "trunk.layer1.", "trunk.layer2."),
        "efficientnet_lite0": ("stem.", "blocks.0.", "blocks.1."),
    }[backbone]
    before = {name: values.clone() for name, values in network.extractor.state_dict().items()}
    features = network.extractor(torch.zeros((2, 64, 64, 3), dtype=torch.uint8))
    features.sum().backward()
    after = network.extractor.state_dict()
    for name, value in network.extractor.named_parameters():
        assert (value.grad is None) == name.startswith(frozen), name
    changed = [name for name in before if "running_" in name and not torch.equal(before[name], after[name])]
    assert any(not name.startswith("widen.") for name in changed) != frozen_statistics
    assert not any(name.startswith(frozen) for name in changed)


def test_networks_are_the_same_on_every_call() -> None:
    """Random weights depend on the recipe's seed, and the global generator is not used."""
    torch.manual_seed(0)
    one = build_network(paper())
    drawn = torch.rand(1)
    two, other = build_network(paper()), build_network(dataclasses.replace(paper(), seed=1))
    weight = "extractor.trunk.conv1.weight"
    assert torch.equal(one.get_parameter(weight), two.get_parameter(weight))
    assert not torch.equal(one.get_parameter(weight), other.get_parameter(weight))
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


def test_heads_are_named_by_tag_and_centred_if_the_recipe_says_so(network: PretextNetwork) -> None:
    """There are five heads; the paper's get the features, the starter's get centred features."""
    assert [*network.heads] == [*TAG_NAMES, "manipulation"]
    features = torch.randn(4, PAPER_FEATURES) + 5
    plain = build_network(paper()).train()
    scores, logits = plain.read_features(features)
    torch.testing.assert_close(scores[:, 3:], plain.heads["iso"](features))
    torch.testing.assert_close(logits[:, None], plain.heads["manipulation"](features))
    centred, _ = network.train().read_features(features[:, : starter().feature_size])
    torch.testing.assert_close(centred.mean(dim=0), torch.zeros(4), atol=1e-6, rtol=0)


def write_photographs(folder: Path, portrait: bytes) -> dict[str, str]:
    """Write tinted, tagged copies of the portrait in two sources; return the roles."""
    image = Image.open(io.BytesIO(portrait)).convert("RGB")
    for source, count in (("a+one", 3), ("b+two", 2)):
        (folder / source).mkdir(parents=True)
        for index in range(count):
            exif = Image.Exif()
            exif.get_ifd(EXIF_IFD).update({0x829D: 2.0 + index, 0x829A: 0.01, 0x920A: 50.0, 0x8827: 100})
            # Each copy gets other colours below the face; else it would be dropped as a near-duplicate.
            copy = image.copy()
            noise = np.random.default_rng(index + 10 * count).integers(0, 256, (5, 8, 3), dtype=np.uint8)
            copy.paste(Image.fromarray(noise).resize((512, 232)), (0, 280))
            copy.save(folder / source / f"{index}.jpg", quality=90, exif=exif)
    return {"a+one": "train", "b+two": "fit"}


@pytest.mark.slow
def test_photographs_become_a_checkpoint(portrait: bytes, tmp_path: Path) -> None:
    """`prepare` and `train` on tagged pictures give faces, tags, a log and weights."""
    roles = write_photographs(tmp_path / "photos", portrait)
    inputs = list_inputs([FolderPhotos(tmp_path / "photos")], RoleRule(table=roles))
    run = tmp_path / "run"
    detector = load_detector(copy_detector(run).parents[2], DetectorSpec(), 1)
    cutter = FaceCutter(detector, FixedLandmarks(), PreprocessSpec(), 64, 1)
    progress = PrepareProgress("preparing", None, "photographs", Console(quiet=True))
    index_run(run, prepare_photos(run, inputs, cutter, progress), inputs, starter())
    assert len(load_role(run, "train")) == 1  # the same face in three pictures
    faces, held_out = (load_role(run, role).select(np.zeros(3, dtype=int)) for role in ("train", "fit"))
    assert faces.tags[0, 0] in {2, 3, 4}
    assert faces.crops.shape[1:] == (224, 224, 3)

    recipe = dataclasses.replace(starter(), batch_size=3, epochs=1, frozen_blocks=15, augment=AugmentRule(warps=2))
    network = build_network(recipe)
    best = train_extractor(network, faces, held_out, recipe, run)
    facts = json.loads((run / "progress.jsonl").read_text())
    assert facts["epoch"] == 1
    assert 0 <= facts["manipulation"] <= 1
    again = build_network(recipe)
    assert load_checkpoint(best, again)["merit"] == facts["merit"]
    assert torch.equal(again.heads["iso"].weight, network.heads["iso"].weight)
