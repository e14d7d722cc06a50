"""The features to compare with: published formats, and errors for others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet50

from ingest.spec import PreprocessSpec
from tests.small_extractor import make_small_extractor
from tests.training.pretext.test_import import Exploit
from training.evaluation.evaluate import EvaluationFaces, compare_features
from training.evaluation.features.compare import COMPARED, load_compared
from training.evaluation.features.networks import FARL_PRETEXT, NetworkFeatures, load_farl
from training.evaluation.features.weights import WrongWeights
from training.evaluation.inputs import WholePictures
from training.export.openvino import export_extractor
from training.recipes import PAPER_FEATURES, MixtureRule, MixtureShape, starter

WIDTH, LAYERS, OUTPUT = 128, 2, 24


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Five random crops."""
    return np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)


def normalise(crops: np.ndarray) -> Tensor:
    """Return crops as CLIP normalises them, NCHW."""
    mean, std = (
        torch.tensor(values).reshape(3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - mean) / std


def build_clip(patch: int) -> open_clip.CLIP:
    """Return a small CLIP whose state dictionary has the published format."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=LAYERS, width=WIDTH, patch_size=patch, image_size=224)
    text = CLIPTextCfg(context_length=8, vocab_size=32, width=64, heads=1, layers=1)
    clip = open_clip.CLIP(OUTPUT, vision, text, quick_gelu=True).eval()
    for value in clip.parameters():  # biases and norms start at 0 and 1, which would hide exchanged keys
        nn.init.normal_(value, std=0.1 if value.ndim < 2 else value.shape[-1] ** -0.5)
    return clip


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    """A small CLIP in open_clip's published format."""
    path = tmp_path / "open_clip_model.safetensors"
    save_file({name: value.contiguous() for name, value in build_clip(32).state_dict().items()}, path)
    return path


@pytest.fixture
def farl_state() -> dict[str, Tensor]:
    """The arrays of a small FaRL: a CLIP, and the parts for masked image modelling."""
    pretext = {
        "visual.mask_token": torch.zeros(WIDTH),
        "visual.ln_lm.weight": torch.ones(WIDTH),
        "visual.lm_head.weight": torch.zeros(9, WIDTH),
        "visual.lm_transformer.resblocks.0.ln_1.weight": torch.ones(WIDTH),
    }
    assert {name.split(".")[1] for name in pretext} == {name.rstrip(".") for name in FARL_PRETEXT}
    return build_clip(16).state_dict() | pretext


def build_exif_language() -> tuple[nn.Module, dict[str, object]]:
    """Return a random ResNet-50 with 768 outputs, and a checkpoint with it."""
    torch.manual_seed(1)
    network = resnet50(weights=None)
    network.fc = nn.Linear(2048, PAPER_FEATURES)
    others = {
        "sink_temp": torch.zeros(()),
        "model.positional_embedding": torch.zeros(77, 8),
        "model.logit_scale": torch.zeros(()),
        "model.transformer.embeddings.word_embeddings.weight": torch.zeros(11, 8),
        "model.token_embedding.weight": torch.zeros(11, 8),
        "model.ln_final.weight": torch.zeros(8),
    }
    model = {f"model.visual.{name}": value for name, value in network.state_dict().items()} | others
    return network.eval(), {"epoch": 75, "model": model, "optimizer": {"state": {}, "param_groups": []}, "lr_sched": {}}


def test_clip_equals_open_clip(clip_file: Path, crops: np.ndarray) -> None:
    """The loaded network gives open_clip's image embedding before normalisation."""
    with torch.inference_mode():
        expected = build_clip(32).encode_image(normalise(crops)).numpy()
    extractor = load_compared("clip", clip_file, 1, PreprocessSpec())
    assert extractor.name == "CLIP"
    features = extractor.extract(crops)
    assert features.shape == (5, OUTPUT)
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_farl_equals_clip_with_its_weights(farl_state: dict[str, Tensor], tmp_path: Path, crops: np.ndarray) -> None:
    """FaRL's file loads in half precision, without masked image modelling."""
    path = tmp_path / "FaRL-Base-Patch16-LAIONFace20M-ep16.pth"
    torch.save({"state_dict": {name: value.half() for name, value in farl_state.items()}}, path)
    clip = build_clip(16)
    clip.load_state_dict({name: value.half().float() for name, value in clip.state_dict().items()})
    with torch.inference_mode():
        expected = clip.encode_image(normalise(crops)).numpy()
    np.testing.assert_allclose(load_farl(path).extract(crops), expected, atol=1e-4)


def test_exif_language_equals_torchvision(tmp_path: Path, crops: np.ndarray) -> None:
    """The ResNet under `model.visual.` gives torchvision's 768 features."""
    network, checkpoint = build_exif_language()
    path = tmp_path / "wrapper_75_new.pth"
    torch.save(checkpoint, path)
    with torch.inference_mode():
        expected = network(normalise(crops)).numpy()
    features = load_compared("exif_language", path, 1, PreprocessSpec()).extract(crops)
    assert features.shape == (5, PAPER_FEATURES)
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_features_do_not_depend_on_the_batch(clip_file: Path) -> None:
    """Crops of several batches keep their order."""
    many = np.random.default_rng(2).integers(0, 256, (37, 224, 224, 3), dtype=np.uint8)
    extractor = load_compared("clip", clip_file, 1, PreprocessSpec())
    np.testing.assert_allclose(extractor.extract(many)[35:], extractor.extract(many[35:]), atol=1e-4)


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_missing_weights_are_named(name: str, tmp_path: Path) -> None:
    """The error names the path, and the expected file or the command that writes it."""
    path = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match=r"absent.* it should be .*(open_clip|FaRL-Base|wrapper_75|exif_only)"):
        load_compared(name, path, 1, PreprocessSpec())


def test_unknown_features_list_the_known_ones() -> None:
    """The error for an unknown name lists the known names."""
    with pytest.raises(ValueError, match="clip, farl, exif_language, exif_l2r"):
        load_compared("clipp", Path(), 1, PreprocessSpec())


def test_missing_and_foreign_keys_are_named(farl_state: dict[str, Tensor], tmp_path: Path) -> None:
    """A missing key, an additional one and one of another shape are each named."""
    path = tmp_path / "farl.pth"
    del farl_state["visual.ln_post.weight"]
    farl_state["visual.surprise"] = torch.zeros(3)
    farl_state["visual.ln_pre.bias"] = torch.zeros(WIDTH + 1)
    torch.save({"state_dict": farl_state}, path)
    with pytest.raises(WrongWeights, match=r"missing \(ln_post.weight\).*unknown \(surprise\).*shape \(ln_pre.bias\)"):
        load_farl(path)


def test_the_wrong_publisher_is_recognised(clip_file: Path, tmp_path: Path) -> None:
    """Each loader refuses the files of other publishers and names the expected file."""
    _, checkpoint = build_exif_language()
    ranking = {**checkpoint, "model": {**checkpoint["model"], "fc_iso.weight": torch.zeros(1, PAPER_FEATURES)}}
    for name, content in (("language", checkpoint), ("ranking", ranking)):
        torch.save(content, tmp_path / f"{name}.pth")
    with pytest.raises(WrongWeights, match=r"no arrays under 'state_dict' but epoch, .*FaRL-Base"):
        load_compared("farl", tmp_path / "language.pth", 1, PreprocessSpec())
    with pytest.raises(WrongWeights, match=r"no arrays under 'model'.*wrapper_75_new"):
        load_compared("exif_language", clip_file, 1, PreprocessSpec())
    with pytest.raises(WrongWeights, match="has ranking heads"):
        load_compared("exif_language", tmp_path / "ranking.pth", 1, PreprocessSpec())
    with pytest.raises(WrongWeights, match=r"contains nothing instead of a vision transformer.*open_clip_model"):
        load_compared("clip", tmp_path / "language.pth", 1, PreprocessSpec())


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript archive")
@pytest.mark.parametrize("name", ["clip", "farl", "exif_language"])
def test_nothing_in_a_file_is_run(name: str, tmp_path: Path) -> None:
    """Pickles with code, TorchScript, damaged files and single arrays are refused."""
    torch.save({"state_dict": Exploit(tmp_path / "ran")}, tmp_path / "hostile.pth")
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "empty.pth").touch()
    torch.save(torch.zeros(3), tmp_path / "array.pth")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(WrongWeights, match="it should be"):
            load_compared(name, path, 1, PreprocessSpec())
    assert not (tmp_path / "ran").exists()


def test_another_image_size_is_refused(tmp_path: Path) -> None:
    """A network for 336 px has more positions than crops of 224 px."""
    clip = build_clip(32)
    state = clip.state_dict() | {"visual.positional_embedding": torch.zeros(11 * 11 + 1, WIDTH)}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "clip.safetensors")
    with pytest.raises(WrongWeights, match="not for 224 px but for 122 positions"):
        load_compared("clip", tmp_path / "clip.safetensors", 1, PreprocessSpec())


@pytest.mark.slow
def test_exif_ranking_comes_from_a_run_of_its_recipe(tmp_path: Path, crops: np.ndarray) -> None:
    """EXIF-L2R uses the engine of a run of `exif_only`; others are refused."""
    described = {"name": "starter", "precision": "fp32", "preprocess": {"antialias": False}}
    cut = PreprocessSpec(antialias=False)
    (tmp_path / "recipe.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="a run of the recipe starter, not of exif_only"):
        load_compared("exif_l2r", tmp_path, 1, cut)
    (tmp_path / "recipe.json").write_text(json.dumps(described | {"name": "exif_only"}))
    with pytest.raises(ValueError, match="cut in another way"):
        load_compared("exif_l2r", tmp_path, 1, PreprocessSpec())
    with pytest.raises(FileNotFoundError, match="no fp32 engine: run"):
        load_compared("exif_l2r", tmp_path, 1, cut)
    network = make_small_extractor()
    export_extractor(network, tmp_path / "engine" / "fp32", "fp32", crops)
    extractor = load_compared("exif_l2r", tmp_path, 1, cut)
    assert (extractor.name, extractor.preprocess) == ("EXIF-L2R", cut)
    with torch.inference_mode():
        expected = network(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(extractor.extract(crops), expected, atol=1e-4)


def test_compared_features_have_their_own_mixture() -> None:
    """Crops like the fitted ones are more likely than others."""
    rng = np.random.default_rng(4)
    base = rng.integers(100, 156, (8, 8, 3))
    crops = (base + rng.integers(-9, 10, (60, 8, 8, 3))).astype(np.uint8)
    names = np.array([f"source {index % 3}" for index in range(60)])
    faces = WholePictures(crops, names, names)
    pooled = NetworkFeatures("pooled", nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), PreprocessSpec(size=8))
    rule = MixtureRule((MixtureShape("diag", 1), MixtureShape("diag", 2)), role_sets=(("fit",),))
    pictures = EvaluationFaces({"fit": faces, "test": faces}, {"inverted": 255 - crops})
    comparison = compare_features(pooled.extract, pictures, replace(starter(), mixture=rule, threshold_on="train"))
    assert comparison.generators["inverted"].auc == 1
    assert comparison.generators["inverted"].accuracy == pytest.approx(1 - 0.05 / 2)
