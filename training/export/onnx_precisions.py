"""Convert an extractor's FP32 ONNX graph to FP16, or to int8 by quantise/dequantise pairs.

The nodes before the first convolution (the normalisation) and from the pooling on stay FP32: FP16 features change
log-likelihoods by up to 2.2 nats. The converter of onnxruntime is not used: it rounds to FP16 between excluded nodes,
including the features, and its graph is not topologically sorted.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import scorer.engines.onnx_runtime  # noqa: F401 - sets what must be set before anything imports ONNX Runtime

POOLING = "ReduceMean"
CONVOLUTION = "Conv"
_FACES_PER_BATCH = 8


def feed_crops(name: str, crops: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """Yield `crops` in batches for the input `name` of a graph."""
    for start in range(0, len(crops), _FACES_PER_BATCH):
        yield {name: crops[start : start + _FACES_PER_BATCH]}


def rewrite_graph(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], added: Iterable[onnx.TensorProto]) -> None:
    """Replace the nodes of `graph` with `nodes`; keep only the constants that they use, of its own and of `added`."""
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in (*graph.initializer, *added) if tensor.name in used]
    for part, items in ((graph.node, nodes), (graph.initializer, tensors)):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del part[:]
        part.extend(copies)
    graph.ClearField("value_info")


class _CropReader:
    """Reads photographs for the calibration, as onnxruntime's `CalibrationDataReader`."""

    def __init__(self, name: str, crops: NDArray[np.uint8]) -> None:
        self._batches = feed_crops(name, crops)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch, or None after the last."""
        return next(self._batches, None)


def quantise_network(model: onnx.ModelProto, crops: NDArray[np.uint8]) -> onnx.ModelProto:
    """Return `model` with quantise/dequantise pairs at each convolution's input and weights, which TensorRT fuses.

    All quantisation is symmetric int8, the only kind that TensorRT supports, with one scale for each output channel of
    the weights. No pair follows a convolution, because it would prevent TensorRT from fusing convolution, addition and
    ReLU into one kernel.

    Args:
        model: the FP32 graph.
        crops: [N, S, S, 3] photographs whose activations give the ranges.
    """
    # After the import above, which isort puts last.
    from onnxruntime import quantization  # noqa: PLC0415, TID251
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415, TID251

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "quantised"))
        onnx.save(model, plain)
        # Shape inference only: onnxruntime's optimiser inserts nodes that TensorRT does not support.
        quant_pre_process(plain, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            quantised,
            _CropReader(model.graph.input[0].name, crops),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[CONVOLUTION],
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": False,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": [CONVOLUTION],
            },
        )
        return onnx.load(quantised)


def convert_to_fp16(model: onnx.ModelProto) -> None:
    """Convert the network of the FP32 `model` to FP16 in place; casts precede the first convolution and the pooling.

    Raises:
        ValueError: the graph has no convolution or no pooling, or a weight exceeds the range of FP16.
    """
    graph = model.graph
    kept = find_fp32_nodes(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    made_by = {name: node.name for node in graph.node for name in node.output}
    casts: dict[str, onnx.NodeProto] = {}
    halved: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        to = TensorProto.FLOAT if node.name in kept else TensorProto.FLOAT16
        for place, name in enumerate(node.input):
            if name in constants:
                if to == TensorProto.FLOAT16:
                    node.input[place] = f"{name}_fp16"
                    halved.add(name)
            elif name in made_by and (made_by[name] in kept) != (node.name in kept):
                node.input[place] = copy = f"{name}_{'fp32' if to == TensorProto.FLOAT else 'fp16'}"
                if copy not in casts:
                    casts[copy] = helper.make_node("Cast", [name], [copy], name=f"cast_{copy}", to=to)
                    nodes.append(casts[copy])
        nodes.append(node)
    rewrite_graph(graph, nodes, [_round_to_fp16(tensor) for name, tensor in constants.items() if name in halved])


def find_fp32_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes that stay FP32: the normalisation, and all nodes from the pooling on.

    Raises:
        ValueError: there is no convolution or no pooling.
    """
    kinds = [node.op_type for node in graph.node]
    if CONVOLUTION not in kinds or POOLING not in kinds:
        message = f"the graph has no {CONVOLUTION} before a {POOLING}: it is not an extractor of this project"
        raise ValueError(message)
    before, after = kinds.index(CONVOLUTION), len(kinds) - 1 - kinds[::-1].index(POOLING)
    return {node.name for node in (*graph.node[:before], *graph.node[after:])}


def _round_to_fp16(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        message = f"the weights {tensor.name} reach {np.abs(values).max():.3g}, above the range of FP16: export FP32"
        raise ValueError(message)
    return numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_fp16")
