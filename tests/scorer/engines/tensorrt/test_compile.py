"""TensorRT's own parser and builder over an exported graph: `tensorrt_rtx` has them for machines without a GPU."""

import stat
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scorer.bundle.bundle import Bundle, read_bundle
from scorer.bundle.manifest import BatchProfile
from scorer.engines.tensorrt.compile import compile_network
from scorer.engines.tensorrt.trtexec import describe_command, run_trtexec
from scorer.errors import BundleMismatch
from tests.small_extractor import make_small_extractor
from training.export.onnx import export_onnx
from training.recipes import Precision


@pytest.fixture(name="rtx", scope="module")
def fixture_rtx() -> ModuleType:
    """TensorRT-RTX, which speaks TensorRT's API."""
    return pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: extra rtx")


@pytest.fixture(name="bundle")
def fixture_bundle(gpu_folder: Path) -> Bundle:
    """A bundle for the GPU."""
    return read_bundle(gpu_folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_an_exported_graph_builds(rtx: ModuleType, bundle: Bundle, tmp_path: Path, precision: Precision) -> None:
    """Each precision parses strongly typed, has the manifest's tensors and becomes a plan that holds its weights."""
    crops = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    graph = export_onnx(make_small_extractor(bundle.manifest.feature_size), tmp_path, precision, crops)
    plan = compile_network(graph, bundle.manifest, BatchProfile(opt=8, max=32), rtx)
    assert len(plan) > graph.stat().st_size / 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"feature_size": 512}, r"has the tensors .* features float \[-1, \d+\], where .* float \[-1, 512\]"),
        ({"input_tensor": "faces"}, r"crops uint8 .*, where the manifest states faces uint8 \[-1, 224, 224, 3\]"),
    ],
)
def test_a_graph_with_other_tensors_is_refused(
    rtx: ModuleType, bundle: Bundle, change: dict[str, object], sentence: str
) -> None:
    """Another name, type or shape than the manifest's is one sentence that shows both."""
    other = bundle.manifest.model_copy(update=change)
    with pytest.raises(BundleMismatch, match=sentence):
        compile_network(bundle.extractor, other, BatchProfile(opt=8, max=32), rtx)


def test_a_file_that_is_no_graph_is_refused(rtx: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    """A file that the parser cannot read gives one line with its name and the parser's error."""
    broken = tmp_path / "model.onnx"
    broken.write_bytes(bundle.extractor.read_bytes()[:5000])
    with pytest.raises(BundleMismatch, match=r"model\.onnx is not a network that TensorRT reads: .+") as refused:
        compile_network(broken, bundle.manifest, BatchProfile(opt=8, max=32), rtx)
    assert "\n" not in str(refused.value)


def test_batches_that_cannot_be_are_refused(rtx: ModuleType, bundle: Bundle) -> None:
    """The profile reaches the builder: one out of order, which no manifest can state, builds no plan."""
    batches = BatchProfile.model_construct(min=8, opt=4, max=2)
    with pytest.raises((BundleMismatch, ValueError)):
        compile_network(bundle.extractor, bundle.manifest, batches, rtx)


TRTEXEC = """\
#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v101500] # trtexec $*"
for option; do case $option in --saveEngine=*) echo "$@" > "${option#--saveEngine=}";; esac; done
"""
FAILING = """\
#!/bin/sh
echo "[11/23/2026-20:00:00] [E] no kernel for this GPU" >&2
exit 1
"""


def write_program(folder: Path, text: str) -> str:
    """Write a replacement for trtexec, which no package registry has."""
    program = folder / "trtexec"
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_trtexec_gets_the_manifest_s_command(bundle: Bundle, tmp_path: Path) -> None:
    """The command is that of the manifest except for the path of the plan; the version is read from the first line."""
    rule = bundle.manifest.plan
    assert rule
    program = write_program(tmp_path, TRTEXEC)
    plan, version = run_trtexec(program, bundle.manifest, rule.batches, bundle.extractor)
    assert version == "101500"
    told = [word for word in plan.decode().split() if not word.startswith(("--saveEngine=", "--onnx="))]
    stated = [word for word in rule.command.split()[1:] if not word.startswith(("--saveEngine=", "--onnx="))]
    assert told == stated
    assert rule.command == describe_command("face_extractor/1/model.onnx", "crops", 224, rule.batches)
    assert "--stronglyTyped --noTF32 --minShapes=crops:1x224x224x3 --optShapes=crops:8x224x224x3" in rule.command
    assert "--onnx=face_extractor/1/model.onnx --saveEngine=face_extractor/1/model.plan" in rule.command


def test_trtexec_s_failure_is_a_sentence(bundle: Bundle, tmp_path: Path) -> None:
    """Its complaint is passed on in one line."""
    program = write_program(tmp_path, FAILING)
    with pytest.raises(BundleMismatch, match=r"trtexec cannot build a plan of .*model\.onnx: .*no kernel for this GPU"):
        run_trtexec(program, bundle.manifest, BatchProfile(), bundle.extractor)
