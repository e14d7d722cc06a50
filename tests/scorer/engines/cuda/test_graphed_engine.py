"""The ONNX graph in PyTorch, without recordings: the features of the network it was exported from."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torchvision.models.resnet import Bottleneck, ResNet

from scorer.engines.cuda.graphed_engine import BATCH_SIZES, GraphedEngine
from scorer.engines.cuda.onnx_network import OnnxNetwork
from scorer.errors import BundleMismatch
from tests.small_extractor import make_small_extractor
from training.export.features import extract_features
from training.export.onnx import export_onnx
from training.pretext import resnet
from training.pretext.network import build_network
from training.recipes import Precision, paper


@pytest.fixture(name="graphs", scope="module")
def fixture_graphs(crops: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """A small extractor's graph at each precision."""
    folder = tmp_path_factory.mktemp("graphs")
    kinds: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
    return {kind: export_onnx(make_small_extractor(), folder / kind, kind, crops) for kind in kinds}


@pytest.mark.parametrize(("precision", "farthest"), [("fp32", 1e-6), ("fp16", 1e-3), ("int8", 5e-3), ("fp8", 5e-3)])
def test_a_graph_s_features_are_the_reference_runtime_s(
    graphs: dict[Precision, Path], crops: NDArray[np.uint8], precision: Precision, farthest: float
) -> None:
    """At each precision the features are those that the bundle's mixture is fitted on, as near as rounding allows."""
    expected = extract_features(graphs[precision], crops, 1)
    found = GraphedEngine(graphs[precision], 224, "cpu").run(crops)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=farthest * expected.max())


@pytest.mark.parametrize(("precision", "farthest"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_an_fp32_graph_can_be_narrowed(
    graphs: dict[Precision, Path], crops: NDArray[np.uint8], precision: Literal["fp16", "bf16"], farthest: float
) -> None:
    """Narrowed, it stays within the precision's rounding of itself, and is rounded indeed."""
    expected = GraphedEngine(graphs["fp32"], 224, "cpu").run(crops)
    found = GraphedEngine(graphs["fp32"], 224, "cpu", precision=precision).run(crops)
    np.testing.assert_allclose(found, expected, atol=farthest * expected.max())
    assert not np.allclose(found, expected, rtol=1e-5)


def test_a_residual_network_runs(crops: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's network, with one block a layer to be quick: its pooling, sums and last layer give its features."""
    monkeypatch.setattr(
        resnet, "resnet50", lambda num_classes, **_: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=num_classes)
    )
    network = build_network(paper()).extractor.eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(crops[:2])).numpy()
    found = GraphedEngine(export_onnx(network, tmp_path, "fp32", crops[:1]), 224, "cpu").run(crops[:2])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_neighbours_change_no_feature(graphs: dict[Precision, Path], crops: NDArray[np.uint8]) -> None:
    """A crop's features do not depend on what shares its batch, and a shared engine gives the same."""
    engine = GraphedEngine(graphs["fp16"], 224, "cpu")
    batch = engine.run(crops)
    turned = engine.share().run(np.ascontiguousarray(crops[::-1]))
    np.testing.assert_allclose(turned[::-1], batch, atol=1e-3 * batch.max())


def write_graph(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Write a graph of `nodes` from `crops` to `features`."""
    crops = helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["N", 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [crops], [features])), path)
    return path


def test_an_unknown_operator_is_refused_by_name(tmp_path: Path) -> None:
    """Nothing is guessed: the sentence names the operator and what runs it."""
    graph = write_graph(tmp_path / "model.onnx", helper.make_node("Erf", ["crops"], ["features"]))
    with pytest.raises(BundleMismatch, match=r"operator Erf.*build the bundle's plan"):
        OnnxNetwork(graph, "cpu")


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    """Other bytes than an ONNX graph's are one sentence."""
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleMismatch, match="is no ONNX graph"):
        OnnxNetwork(tmp_path / "model.onnx", "cpu")


def test_little_of_a_large_batch_is_filler() -> None:
    """Whatever the number of crops, less than half of a recorded batch is filler, and over 32 at most a third."""
    for count in range(1, BATCH_SIZES[-1] + 1):
        size = min(size for size in BATCH_SIZES if size >= count)
        assert 2 * count > size
        assert count <= 32 or 3 * count > 2 * size
