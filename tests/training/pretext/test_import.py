"""The conversion of published checkpoints to safetensors, and the refusal of other files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import resnet50

from training.pretext.backbone import Normalise
from training.pretext.checkpoints import describe_initial
from training.pretext.import_checkpoint import CLIP_LEFTOVERS, ImportRefused, import_checkpoint
from training.pretext.network import PretextNetwork, build_network, load_initial
from training.recipes import paper, starter

HEADS = ("face", "iso", "av", "et", "fl")


def make_model(*, small: bool = False) -> dict[str, Tensor]:
    """Return the 335 arrays of the authors' checkpoint; with `small` they use almost no memory."""
    torch.manual_seed(4)
    trunk = resnet50(weights=None, num_classes=768).state_dict()
    model = {f"model.visual.{name}": values for name, values in trunk.items()}
    for index, head in enumerate(HEADS):
        model |= {
            f"fc_{head}.weight": torch.full((1, 768), float(index)),
            f"fc_{head}.bias": torch.tensor([index + 0.5]),
        }
    shapes = ((77, 512), (), (49408, 512), (512,), (512,))
    model |= {name: torch.zeros(()).expand(shape) for name, shape in zip(CLIP_LEFTOVERS, shapes, strict=True)}
    return (
        {name: torch.zeros((), dtype=values.dtype).expand(values.shape) for name, values in model.items()}
        if small
        else model
    )


def write(path: Path, model: dict[str, object], **changes: object) -> Path:
    """Write a checkpoint as the authors' trainer does."""
    schedule = {"T_max": 10, "eta_min": 1e-7, "base_lrs": [1e-5], "last_epoch": 19, "_last_lr": [1e-5]}
    checkpoint = {"epoch": 19, "model": model, "optimizer": {"state": {}, "param_groups": []}, "lr_sched": schedule}
    torch.save(checkpoint | changes, path)
    return path


@pytest.fixture(scope="module")
def crops() -> Tensor:
    """Two random crops."""
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def network() -> PretextNetwork:
    """The paper's network with random weights."""
    return build_network(paper()).eval()


@pytest.mark.slow
def test_authors_checkpoint_fills_the_network(network: PretextNetwork, crops: Tensor, tmp_path: Path) -> None:
    """320 arrays give torchvision's features, and five heads with `et` and `fl` exchanged."""
    model = make_model()
    assert len(model) == 335
    out = tmp_path / "anomalies.safetensors"
    summary = import_checkpoint(write(tmp_path / "ckpt.pth", model), "anomalies", out)
    assert "330 arrays of epoch 19, 5 left out" in summary
    facts = describe_initial(out)
    assert facts["file"] == "anomalies.safetensors"
    assert facts["origin"].startswith("imported from a checkpoint of the kind anomalies: CC BY-NC-SA 2.0")
    load_initial(network, out)
    reference = resnet50(weights=None, num_classes=768)
    reference.load_state_dict({name[len("model.visual.") :]: v for name, v in model.items() if ".visual." in name})
    with torch.inference_mode():
        expected = reference.eval()(Normalise(paper().preprocess)(crops))
        torch.testing.assert_close(network.extractor(crops), expected, rtol=1e-5, atol=1e-6)
    named = ("manipulation", "iso", "f_number", "focal_length_mm", "exposure_time_s")
    for index, name in enumerate(named):
        assert torch.equal(network.heads[name].weight, torch.full((1, 768), float(index)))
        assert float(network.heads[name].bias) == index + 0.5


def test_exif_as_language_fills_only_the_extractor(network: PretextNetwork, tmp_path: Path) -> None:
    """Its text encoder is left out by name, and the heads do not change."""
    model = {name: values for name, values in make_model().items() if not name.startswith("fc_")}
    model |= {"sink_temp": torch.zeros(()), "model.text_projection": torch.zeros(2, 2)}
    model |= {"model.transformer.layer.0.attention.q_lin.weight": torch.zeros(2, 2)}
    out = tmp_path / "language.safetensors"
    import_checkpoint(write(tmp_path / "wrapper.pth", model), "exif-as-language", out)
    assert len(load_file(out)) == 320
    before = network.heads["iso"].weight.clone()
    load_initial(network, out)
    assert torch.equal(network.get_parameter("extractor.trunk.fc.weight"), model["model.visual.fc.weight"])
    assert torch.equal(network.heads["iso"].weight, before)


def test_torchvision_weights_fill_all_but_the_last_layer(network: PretextNetwork, tmp_path: Path) -> None:
    """All layers are loaded except the last one, for ImageNet's thousand classes."""
    weights = resnet50(weights=None).state_dict()
    save_file(weights, tmp_path / "imagenet.safetensors", {"format": "pt"})
    assert set(describe_initial(tmp_path / "imagenet.safetensors")) == {"file", "sha256"}
    last = network.get_parameter("extractor.trunk.fc.weight").clone()
    load_initial(network, tmp_path / "imagenet.safetensors")
    assert torch.equal(network.get_parameter("extractor.trunk.conv1.weight"), weights["conv1.weight"])
    assert torch.equal(network.get_parameter("extractor.trunk.fc.weight"), last)


def test_weights_of_another_network_are_refused(network: PretextNetwork, tmp_path: Path) -> None:
    """Differing keys are named, and no weight changes."""
    weights = {name: values.contiguous() for name, values in resnet50(weights=None).state_dict().items()}
    del weights["layer3.0.conv1.weight"]
    save_file(weights, tmp_path / "short.safetensors")
    before = network.get_parameter("extractor.trunk.conv1.weight").clone()
    with pytest.raises(ValueError, match=r"1 missing \(extractor.trunk.layer3.0.conv1.weight\); choose"):
        load_initial(network, tmp_path / "short.safetensors")
    assert torch.equal(network.get_parameter("extractor.trunk.conv1.weight"), before)
    with pytest.raises(ValueError, match=r"missing .* unknown"):
        load_initial(build_network(starter()), tmp_path / "short.safetensors")


def damage(model: dict[str, object], how: str) -> dict[str, object]:
    """Return the arrays of a wrong file."""
    if how == "missing":
        del model["model.visual.layer1.0.bn1.running_mean"]
    elif how == "extra":
        model["model.visual.layer5.weight"] = torch.zeros(1)
    elif how == "shape":
        model["fc_iso.weight"] = torch.zeros(2, 768)
    elif how == "infinite":
        model["fc_iso.weight"] = torch.full((1, 768), torch.inf)
    elif how == "wrapped":
        model = {f"module.{name}": values for name, values in model.items()}
    elif how == "bare":
        model = {name.removeprefix("model."): values for name, values in model.items()}
    return model


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("missing", r"not a checkpoint of anomalies: 1 missing \(model.visual.layer1.0.bn1.running_mean\)"),
        ("extra", r"1 unknown \(model.visual.layer5.weight\)"),
        ("shape", r"1 of another shape \(fc_iso.weight\)"),
        ("infinite", r"NaN or infinite weight in heads.iso.weight"),
        ("wrapped", r"330 missing .* unknown .* DataParallel"),
        ("bare", r"320 missing .* unknown"),
    ],
)
def test_a_wrong_file_is_refused_by_its_keys(tmp_path: Path, how: str, error: str) -> None:
    """The error names the difference, and nothing is written."""
    path = write(tmp_path / "ckpt.pth", damage(make_model(small=True), how))
    with pytest.raises(ImportRefused, match=error):
        import_checkpoint(path, "anomalies", tmp_path / "out.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["ckpt.pth"]


def test_a_file_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    """Heads in a file of the kind EXIF-as-language are not ignored."""
    path = write(tmp_path / "ckpt.pth", make_model(small=True))
    with pytest.raises(ImportRefused, match=r"not a checkpoint of exif-as-language: 10 unknown \(fc_av.bias"):
        import_checkpoint(path, "exif-as-language", tmp_path / "out.safetensors")


class Exploit:
    """An object that creates a folder when an unsafe loader unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, *, zipped: bool) -> None:
    """A pickle with code is refused with one line, in the new format and in the old one."""
    path, trace = tmp_path / "ckpt.pth", tmp_path / "trace"
    torch.save(
        {"epoch": 1, "model": {}, "optimizer": Exploit(trace), "lr_sched": {}},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ImportRefused, match="contains something other than tensors") as refusal:
        import_checkpoint(path, "anomalies", tmp_path / "out.safetensors")
    assert "\n" not in str(refusal.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1, 2], {"epoch": 1, "model": 3, "optimizer": 0, "lr_sched": 0}]
)
def test_other_top_level_keys_are_refused(tmp_path: Path, content: object) -> None:
    """A file without the four keys, or without arrays, is refused."""
    torch.save(content, tmp_path / "ckpt.pth")
    with pytest.raises(ImportRefused, match=r"is not a dictionary of epoch, lr_sched, model, opt|other than arrays"):
        import_checkpoint(tmp_path / "ckpt.pth", "anomalies", tmp_path / "out.safetensors")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A truncated file is refused."""
    whole = write(tmp_path / "whole.pth", {"a": torch.zeros(1000)}).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImportRefused, match="damaged"):
        import_checkpoint(tmp_path / "half.pth", "anomalies", tmp_path / "out.safetensors")


def test_the_old_format_is_read(tmp_path: Path) -> None:
    """Files in the format before torch 1.6, which cannot be memory-mapped, are converted too."""
    path = tmp_path / "old.pth"
    checkpoint = {"epoch": 3, "model": make_model(), "optimizer": {}, "lr_sched": {}}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    import_checkpoint(path, "anomalies", tmp_path / "out.safetensors")
    assert len(load_file(tmp_path / "out.safetensors")) == 330
