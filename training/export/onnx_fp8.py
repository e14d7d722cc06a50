"""An FP32 graph's convolutions in FP8 (E4M3), by quantise/dequantise pairs.

FP8 keeps small values where int8 rounds them to nought; GPUs have it since Ada and Hopper. Only what TensorRT has quick
FP8 kernels for is quantised: none exist for grouped convolutions or beyond 32 taps (its release notes 10.13,
"Limitations"), and a 7x7 stem of three channels in FP8 builds no plan at all (NVIDIA/TensorRT issue 3987).
"""

from math import prod

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from training.export.onnx_precisions import CONVOLUTION, feed_crops, rewrite_graph

LARGEST_FP8 = 448.0
MOST_TAPS, CHANNELS_TOGETHER = 32, 16  # of an FP8 kernel
_ZERO = "fp8_zero"  # a pair's zero point, which gives it its type


def quantise_to_fp8(model: onnx.ModelProto, crops: NDArray[np.uint8]) -> None:
    """Put FP8 pairs at the input and weights of each convolution of the FP32 `model` that gains by them, in place.

    A scale a tensor, as TensorRT's own tool has it: the largest magnitude, of the weights or of the activations over
    `crops`, over FP8's largest number. Scales are numbers of FP16, so that halving the rest leaves them as they are.

    Args:
        model: the FP32 graph.
        crops: [N, S, S, 3] photographs whose activations give the scales.

    Raises:
        ValueError: no convolution of the graph gains by FP8, or a tensor is so small that FP16 holds no scale of it.
    """
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    chosen = {
        node.name: node.input[0] for node in graph.node if node.op_type == CONVOLUTION and _has_kernel(node, weights)
    }
    if not chosen:
        message = "no convolution of the network has a quick FP8 kernel: export fp16 or int8"
        raise ValueError(message)
    reached = find_reach(model, sorted(set(chosen.values())), crops)
    constants = {_ZERO: np.zeros((), ml_dtypes.float8_e4m3fn)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in chosen:
            activation, weight = node.input[:2]
            if f"{activation}_scale" not in constants:  # several convolutions may read it
                constants[f"{activation}_scale"] = _fit_scale(reached[activation], activation)
                nodes += [
                    _convert("Quantize", activation, activation),
                    _convert("Dequantize", f"{activation}_fp8", activation),
                ]
            scale = constants[f"{weight}_scale"] = _fit_scale(float(np.abs(weights[weight]).max()), weight)
            levels = np.clip(weights[weight] / scale, -LARGEST_FP8, LARGEST_FP8)
            constants[f"{weight}_fp8"] = levels.astype(ml_dtypes.float8_e4m3fn)
            nodes.append(_convert("Dequantize", f"{weight}_fp8", weight))
            node.input[0], node.input[1] = f"{activation}_narrowed", f"{weight}_narrowed"
        nodes.append(node)
    rewrite_graph(graph, nodes, (numpy_helper.from_array(values, name) for name, values in constants.items()))


def find_reach(model: onnx.ModelProto, names: list[str], crops: NDArray[np.uint8]) -> dict[str, float]:
    """Return the largest magnitude over `crops`, [N, S, S, 3], of each of the values `names` within the graph."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    reach = np.zeros(len(names))
    for batch in feed_crops(model.graph.input[0].name, crops):
        reach = np.maximum(reach, [np.abs(values).max() for values in session.run(names, batch)])
    return dict(zip(names, reach.tolist(), strict=True))


def _has_kernel(node: onnx.NodeProto, weights: dict[str, NDArray[np.float32]]) -> bool:
    group = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    outputs, inputs, *taps = weights[node.input[1]].shape
    return group == 1 and prod(taps) <= MOST_TAPS and outputs % CHANNELS_TOGETHER == inputs % CHANNELS_TOGETHER == 0


def _fit_scale(reach: float, name: str) -> NDArray[np.float32]:
    scale = np.float16(reach / LARGEST_FP8)
    if scale < np.finfo(np.float16).smallest_normal:
        message = f"{name} reaches {reach:.3g} only, too little for a scale in FP16: export int8 or fp32"
        raise ValueError(message)
    return np.array(scale, np.float32)


def _convert(what: str, source: str, of: str) -> onnx.NodeProto:
    made = f"{of}_{'fp8' if what == 'Quantize' else 'narrowed'}"
    return helper.make_node(f"{what}Linear", [source, f"{of}_scale", _ZERO], [made], name=f"{what.lower()}_{of}")
