"""Convert the convolutions of an FP32 graph to FP8 (E4M3), by quantise/dequantise pairs.

FP8 represents small values that int8 rounds to zero; GPUs support it since Ada and Hopper. Only convolutions for which
TensorRT has fast FP8 kernels are quantised: there are none for grouped convolutions or for more than 32 taps (release
notes 10.13, "Limitations"), and with an FP8 7x7 stem of three channels no plan can be built (NVIDIA/TensorRT issue
3987).
"""

from math import prod

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from scorer.engines.onnx_runtime import onnxruntime
from training.export.onnx_precisions import CONVOLUTION, feed_crops, rewrite_graph

LARGEST_FP8 = 448.0
MAX_TAPS, CHANNEL_MULTIPLE = 32, 16  # of an FP8 kernel
_ZERO = "fp8_zero"  # the zero point of all pairs; it determines their type


def quantise_to_fp8(model: onnx.ModelProto, crops: NDArray[np.uint8]) -> None:
    """Insert FP8 pairs at the input and the weights of each convolution of `model` that has an FP8 kernel, in place.

    Each tensor has one scale, as in TensorRT's own tool: the largest magnitude of the weights, or of the activations
    over `crops`, divided by FP8's largest number. Scales are FP16 numbers, so a later conversion to FP16 keeps them.

    Args:
        model: the FP32 graph.
        crops: [N, S, S, 3] photographs whose activations give the scales.

    Raises:
        ValueError: no convolution has an FP8 kernel, or the scale of a tensor is too small for FP16.
    """
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    chosen = {
        node.name: node.input[0] for node in graph.node if node.op_type == CONVOLUTION and _has_kernel(node, weights)
    }
    if not chosen:
        message = "no convolution of the network has a fast FP8 kernel: export fp16 or int8"
        raise ValueError(message)
    largest = find_largest_magnitudes(model, sorted(set(chosen.values())), crops)
    constants = {_ZERO: np.zeros((), ml_dtypes.float8_e4m3fn)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in chosen:
            activation, weight = node.input[:2]
            if f"{activation}_scale" not in constants:  # several convolutions can read it
                constants[f"{activation}_scale"] = _make_scale(largest[activation], activation)
                nodes += [
                    _convert("Quantize", activation, activation),
                    _convert("Dequantize", f"{activation}_fp8", activation),
                ]
            scale = constants[f"{weight}_scale"] = _make_scale(float(np.abs(weights[weight]).max()), weight)
            levels = np.clip(weights[weight] / scale, -LARGEST_FP8, LARGEST_FP8)
            constants[f"{weight}_fp8"] = levels.astype(ml_dtypes.float8_e4m3fn)
            nodes.append(_convert("Dequantize", f"{weight}_fp8", weight))
            node.input[0], node.input[1] = f"{activation}_narrowed", f"{weight}_narrowed"
        nodes.append(node)
    rewrite_graph(graph, nodes, (numpy_helper.from_array(values, name) for name, values in constants.items()))


def find_largest_magnitudes(model: onnx.ModelProto, names: list[str], crops: NDArray[np.uint8]) -> dict[str, float]:
    """Return the largest magnitude over `crops`, [N, S, S, 3], of each of the graph's values `names`."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    extended.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(extended.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = np.zeros(len(names))
    for batch in feed_crops(model.graph.input[0].name, crops):
        largest = np.maximum(largest, [np.abs(values).max() for values in session.run(names, batch)])
    return dict(zip(names, largest.tolist(), strict=True))


def _has_kernel(node: onnx.NodeProto, weights: dict[str, NDArray[np.float32]]) -> bool:
    group = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    outputs, inputs, *taps = weights[node.input[1]].shape
    return group == 1 and prod(taps) <= MAX_TAPS and outputs % CHANNEL_MULTIPLE == inputs % CHANNEL_MULTIPLE == 0


def _make_scale(largest: float, name: str) -> NDArray[np.float32]:
    scale = np.float16(largest / LARGEST_FP8)
    if scale < np.finfo(np.float16).smallest_normal:
        message = f"the largest value of {name} is {largest:.3g}, too small for a scale in FP16: export int8 or fp32"
        raise ValueError(message)
    return np.array(scale, np.float32)


def _convert(what: str, source: str, of: str) -> onnx.NodeProto:
    made = f"{of}_{'fp8' if what == 'Quantize' else 'narrowed'}"
    return helper.make_node(f"{what}Linear", [source, f"{of}_scale", _ZERO], [made], name=f"{what.lower()}_{of}")
