"""The ONNX graph of an extractor: its results, its precisions, and its metadata."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from scorer.errors import BundleMismatch
from tests.small_extractor import SmallExtractor, make_small_extractor
from training.export.features import extract_features
from training.export.onnx import export_onnx
from training.export.onnx_features import OnnxExtractor
from training.export.onnx_fp8 import quantise_to_fp8
from training.export.onnx_precisions import convert_to_fp16
from training.recipes import PAPER_FEATURES, Precision

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")


@pytest.fixture(name="network", scope="module")
def fixture_network() -> SmallExtractor:
    """A small extractor with one channel of very small weights, as trained networks have."""
    network = make_small_extractor()
    with torch.no_grad():
        network.depthwise[0].weight[3] *= 1e-7
    return network


@pytest.fixture(name="crops", scope="module")
def fixture_crops() -> np.ndarray:
    """Nine smooth random crops."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 9, 9, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(pixels).resize((224, 224))) for pixels in coarse])


@pytest.fixture(name="graphs", scope="module")
def fixture_graphs(
    network: SmallExtractor, crops: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Path]:
    """The graph at each precision."""
    folder = tmp_path_factory.mktemp("graphs")
    return {precision: export_onnx(network, folder / precision, precision, crops) for precision in PRECISIONS}


@pytest.mark.parametrize(("precision", "farthest"), [("fp32", 1e-5), ("fp16", 2e-3), ("int8", 0.1), ("fp8", 0.05)])
def test_a_graph_gives_the_network_s_features(
    network: SmallExtractor, crops: np.ndarray, graphs: dict[Precision, Path], precision: Precision, farthest: float
) -> None:
    """The graph maps any number of uint8 crops to FP32 features, within the precision's tolerance."""
    with torch.inference_mode():
        expected = network(torch.from_numpy(crops)).numpy()
    features = extract_features(graphs[precision], crops, 1, PAPER_FEATURES)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=farthest * expected.max())
    np.testing.assert_allclose(
        extract_features(graphs[precision], crops[:1], 1, PAPER_FEATURES), features[:1], atol=1e-5
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_states_its_tensors_and_no_path(graphs: dict[Precision, Path], precision: Precision) -> None:
    """Names and types are those of the manifest, the batch size is free, and the graph contains no path."""
    data = graphs[precision].read_bytes()
    graph = onnx.load_from_string(data).graph
    tensors = [
        (tensor.name, tensor.type.tensor_type.elem_type, [d.dim_value for d in tensor.type.tensor_type.shape.dim])
        for tensor in (*graph.input, *graph.output)
    ]
    assert tensors == [
        ("crops", TensorProto.UINT8, [0, 224, 224, 3]),
        ("features", TensorProto.FLOAT, [0, PAPER_FEATURES]),
    ]
    assert str(Path.cwd()).encode() not in data
    assert b"site-packages" not in data


def test_only_the_network_is_fp16(graphs: dict[Precision, Path]) -> None:
    """Normalisation and pooling are FP32, all nodes between are FP16, with one cast before and one after."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(graphs["fp16"])).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    by_type = {node.op_type: {kinds[output] for output in node.output} for node in graph.node}
    assert by_type["Mul"] == by_type["ReduceMean"] == {TensorProto.FLOAT}
    assert by_type["Conv"] == by_type["Clip"] == {TensorProto.FLOAT16}
    assert Counter(node.op_type for node in graph.node)["Cast"] == 3  # uint8 to FP32, to FP16, back to FP32
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {weights[node.input[1]] for node in graph.node if node.op_type == "Conv"} == {TensorProto.FLOAT16}


def test_int8_pairs_are_where_tensorrt_fuses_them(graphs: dict[Precision, Path]) -> None:
    """Every convolution reads symmetrically quantised inputs and weights, by channel; no pair follows it."""
    graph = onnx.load(graphs["int8"]).graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        activation, weights = (makers[name] for name in node.input[:2])
        assert (activation.op_type, weights.op_type) == ("DequantizeLinear",) * 2
        assert makers[activation.input[0]].op_type == "QuantizeLinear"
        assert constants[weights.input[0]].dtype == np.int8
        assert constants[weights.input[1]].shape == constants[weights.input[0]].shape[:1]
        for pair in (activation, weights):
            scale, zero = (constants[name] for name in pair.input[1:3])
            assert scale.dtype == np.float32
            assert (scale > 0).all()
            assert zero.dtype == np.int8
            assert not zero.any()
        readers = {reader.op_type for reader in graph.node if node.output[0] in reader.input}
        assert readers <= {"Clip", "Relu", "Add"}


def test_fp8_pairs_are_where_kernels_exist(
    network: SmallExtractor, crops: np.ndarray, graphs: dict[Precision, Path]
) -> None:
    """The stem and the depthwise convolution stay FP16; the last reads FP8 inputs and weights, with one scale each."""
    graph = onnx.load(graphs["fp8"]).graph
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    stem, depthwise, last = (node for node in graph.node if node.op_type == "Conv")
    for node in (stem, depthwise):
        assert tensors[node.input[1]].data_type == TensorProto.FLOAT16
    largest = []
    for name in last.input[:2]:
        levels, scale, zero = makers[name].input
        assert makers[name].op_type == "DequantizeLinear"
        assert tensors[zero].data_type == TensorProto.FLOAT8E4M3FN
        assert tensors[scale].data_type == TensorProto.FLOAT16
        assert list(tensors[scale].dims) == []
        largest.append(float(numpy_helper.to_array(tensors[scale])) * 448)
    assert makers[makers[last.input[0]].input[0]].op_type == "QuantizeLinear"
    assert tensors[levels].data_type == TensorProto.FLOAT8E4M3FN
    with torch.inference_mode():
        x = network.stem(network.normalise(torch.from_numpy(crops)))
        expected = [(x + network.depthwise(x)).max().item(), network.widen[0].weight.abs().max().item()]
    np.testing.assert_allclose(largest, expected, rtol=2e-3)  # scales are FP16 numbers


def make_convolution(weights: np.ndarray) -> onnx.ModelProto:
    """Return the graph of one 1x1 convolution and a pooling."""
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["y"], name="conv"),
        helper.make_node("ReduceMean", ["y"], ["z"], name="pool"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weights.shape[1], 2, 2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (np.ones((1, 3, 1, 1), np.float32), "no convolution of the network has a fast FP8 kernel: export fp16"),
        (np.full((16, 16, 1, 1), 1e-3, np.float32), "value of weights is 0.001, too small for a scale in FP16"),
    ],
)
def test_networks_unsuitable_for_fp8_are_refused(weights: np.ndarray, error: str) -> None:
    """A network without FP8 kernels, or with a scale too small for FP16, is an error that says what to export."""
    x = np.ones((1, weights.shape[1], 2, 2), np.float32)
    with pytest.raises(ValueError, match=error):
        quantise_to_fp8(make_convolution(weights), x)


def test_weights_beyond_fp16_are_refused() -> None:
    """A weight above the range of FP16 is an error and does not become infinite."""
    with pytest.raises(ValueError, match=r"reach 1e\+05, above the range of FP16"):
        convert_to_fp16(make_convolution(np.full((1, 3, 1, 1), 1e5, np.float32)))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, graphs: dict[Precision, Path]) -> None:
    """A damaged file, or another number of features, is an error that names it."""
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"none")
    with pytest.raises(BundleMismatch, match=r"model\.onnx is no network"):
        OnnxExtractor(broken, PAPER_FEATURES, threads=1)
    with pytest.raises(BundleMismatch, match="has 768 features, 512 are expected"):
        OnnxExtractor(graphs["fp32"], 512, threads=1)
