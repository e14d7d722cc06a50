"""ONNX Runtime's engine with its CPU provider: the features of the network that the graph was exported from."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torchvision.models.resnet import Bottleneck, ResNet

from ingest.device import find_gpu
from scorer.bundle.bundle import Bundle
from scorer.bundle.manifest import Manifest
from scorer.engines.cuda.engine import EngineUnavailable
from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine
from scorer.engines.onnx_runtime import onnxruntime
from scorer.errors import BackendUnavailable, BundleMismatch
from scorer.mixture import Array
from tests.small_extractor import make_small_extractor
from training.export.features import extract_features
from training.export.onnx import export_onnx
from training.pretext import resnet
from training.pretext.network import build_network
from training.recipes import Precision, paper

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")


@pytest.fixture(name="graphs", scope="module")
def fixture_graphs(
    crops: NDArray[np.uint8], manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Path]:
    """A small extractor's graph at each precision."""
    folder = tmp_path_factory.mktemp("graphs")
    network = make_small_extractor(manifest.feature_size)
    return {kind: export_onnx(network, folder / kind, kind, crops) for kind in PRECISIONS}


@pytest.fixture(scope="module")
def manifest(gpu_bundle: Bundle) -> Manifest:
    """The manifest of a bundle for the GPU; its tensors are those of each graph here."""
    return gpu_bundle.manifest


@pytest.mark.parametrize("precision", PRECISIONS)
def test_features_are_those_of_the_reference(
    graphs: dict[Precision, Path], manifest: Manifest, crops: NDArray[np.uint8], precision: Precision
) -> None:
    """At each precision the features are those that the bundle's mixture is fitted on, up to the order of sums."""
    expected = extract_features(graphs[precision], crops, 1, manifest.feature_size)
    stated = manifest.model_copy(update={"precision": precision})
    found = OnnxRuntimeEngine(graphs[precision], stated, "cpu").run(crops)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_a_residual_network_runs(
    manifest: Manifest, crops: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's network, with one block a layer to be quick: its pooling, sums and last layer give its features."""
    monkeypatch.setattr(
        resnet, "resnet50", lambda num_classes, **_: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=num_classes)
    )
    network = build_network(paper()).extractor.eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(crops[:2])).numpy()
    found = OnnxRuntimeEngine(export_onnx(network, tmp_path, "fp32", crops[:1]), manifest, "cpu").run(crops[:2])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_neighbours_change_no_feature(
    graphs: dict[Precision, Path], manifest: Manifest, crops: NDArray[np.uint8]
) -> None:
    """A crop's features depend neither on its batch nor on later calls, and a shared engine gives the same."""
    engine = OnnxRuntimeEngine(graphs["fp16"], manifest, "cpu")
    batch = engine.run(crops)
    kept = batch.copy()
    reversed_batch = engine.share().run(crops[::-1])
    np.testing.assert_allclose(reversed_batch[::-1], batch, atol=1e-3 * batch.max())
    np.testing.assert_allclose(engine.run(crops[:1]), batch[:1], atol=1e-3 * batch.max())
    np.testing.assert_array_equal(batch, kept)


def test_a_file_that_is_no_graph_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    """Other bytes than an ONNX graph's are one sentence."""
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleMismatch, match=r"is no ONNX graph .*copy the whole bundle again"):
        OnnxRuntimeEngine(tmp_path / "model.onnx", manifest, "cpu")


def test_other_tensors_than_the_manifest_s_are_refused(graphs: dict[Precision, Path], manifest: Manifest) -> None:
    """A graph with another number of features is of another bundle."""
    stated = manifest.model_copy(update={"feature_size": 512})
    with pytest.raises(
        BundleMismatch, match=rf"\[{manifest.feature_size}\].*the manifest states.*\[512\].*export the bundle again"
    ):
        OnnxRuntimeEngine(graphs["fp32"], stated, "cpu")


def test_a_missing_operator_is_one_sentence(graphs: dict[Precision, Path], manifest: Manifest, tmp_path: Path) -> None:
    """A graph that ONNX Runtime has no kernel for does not open; the sentence names the operator."""
    model = onnx.load(graphs["fp32"])
    model.opset_import.add(domain="unknown", version=1)
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    clip.domain, clip.op_type = "unknown", "Bend"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(EngineUnavailable, match=r"^ONNX Runtime [\d.]+ does not run .*Bend") as refused:
        OnnxRuntimeEngine(tmp_path / "model.onnx", manifest, "cpu")
    assert "\n" not in str(refused.value)


def test_a_package_for_cpus_alone_is_told(
    graphs: dict[Precision, Path], manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package `onnxruntime` took the place of `onnxruntime-gpu`, the sentence states which to install."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineUnavailable, match=r"no CUDAExecutionProvider: .*install onnxruntime-gpu"):
        OnnxRuntimeEngine(graphs["fp32"], manifest, "cuda")


@pytest.mark.skipif(bool(find_gpu()[0]), reason="this machine has a GPU")
def test_no_node_falls_back_to_the_cpu(
    graphs: dict[Precision, Path], manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the options of a GPU, a session whose provider takes no node does not open."""
    idle = next(name for name in reversed(onnxruntime.get_available_providers()) if name != "CPUExecutionProvider")
    engine = OnnxRuntimeEngine(graphs["fp32"], manifest, "cpu")
    monkeypatch.setattr(engine, "_device", "cuda")
    monkeypatch.setattr(engine, "_make_provider_options", dict)
    monkeypatch.setattr("scorer.engines.cuda.onnx_runtime_engine._PROVIDERS", {"cuda": idle})
    with pytest.raises(EngineUnavailable, match=r"would then run on the CPU|cannot be loaded"):
        engine._open_session(graphs["fp32"], graphs["fp32"].read_bytes())  # noqa: SLF001 - a part of the start


def test_no_memory_at_the_start_is_a_temporary_error(graphs: dict[Precision, Path], manifest: Manifest) -> None:
    """Where the GPU has no memory for one crop, a later start may succeed."""

    class FullEngine(OnnxRuntimeEngine):
        def run(self, crops_NHWC: Array) -> Array:
            message = f"Failed to allocate memory for requested buffer of size {crops_NHWC.nbytes}"
            raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(message)

    with pytest.raises(BackendUnavailable, match=r"not enough free memory .*nvidia-smi"):
        FullEngine(graphs["fp32"], manifest, "cpu")
