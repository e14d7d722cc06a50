"""An ONNX graph as calls of PyTorch, at the graph's own precision, channels last.

Nothing is unpickled: weights come out of the ONNX. No library is used to read it: onnx2torch, the one that people
use, has stood still since 2024 and refuses opset 20. The extractors need a dozen operators; a graph with another
one is refused by that operator's name. Quantised graphs are computed as what they stand for, in floating point.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from ingest.device import Kind
from scorer.errors import BundleMismatch

Precision = Literal["fp16", "bf16"]
_NARROW = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CAST = {1: torch.float32, 10: torch.float16, 16: torch.bfloat16}  # onnx.TensorProto's numbers
Attributes = dict[str, Any]
Weights = Sequence[Tensor | None]
Compute = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator: names of its inputs and of its output, and the call."""

    operator: str
    inputs: list[str]
    output: str
    compute: Compute

    def run(self, values: dict[str, Tensor]) -> Tensor:
        """Return what it makes of `values`; an input left out has no name."""
        return self.compute(*(values[name] if name else None for name in self.inputs))


class OnnxNetwork:
    """An ONNX graph as calls of PyTorch.

    Args:
        model: the file; weights in further files are not looked for.
        device: where its weights lie.
        precision: None computes as the graph says. Otherwise an FP32 graph's convolutions and what lies between
            them are narrowed to it, which is how an exported FP16 graph looks; FP32 stays around them.
        read: returns the bytes of the file, which a bundle checks.

    Raises:
        BundleMismatch: the file is no ONNX, or has an operator that is not known here.
    """

    def __init__(
        self,
        model: Path,
        device: Kind,
        precision: Precision | None = None,
        read: Callable[[Path], bytes] = Path.read_bytes,
    ) -> None:
        data = read(model)
        try:
            graph = onnx.load_model_from_string(data).graph
        except Exception as error:
            message = f"{model} is no ONNX graph ({error}): copy the whole bundle again"
            raise BundleMismatch(message) from error
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._weights = {tensor.name: _read_tensor(tensor) for tensor in graph.initializer}
        self._steps = []
        for node in graph.node:
            step = self._read_step(node, model)
            if all(name in self._weights for name in step.inputs):
                self._weights[step.output] = step.run(self._weights)  # the same for every face: dequantised weights
            else:
                self._steps.append(step)
        for step in self._steps:
            if step.operator == "Conv":
                self._place(step.inputs[1:], None if precision is None else _NARROW[precision])
        used = {name for step in self._steps for name in step.inputs}
        self._weights = {name: weight.to(device) for name, weight in self._weights.items() if name in used}

    def __call__(self, crops_NHWC: Tensor) -> Tensor:
        """Return [N, D] float32 of [N, S, S, 3] uint8, both on the network's device."""
        values = {**self._weights, self._input: crops_NHWC}
        for step in self._steps:
            values[step.output] = step.run(values)
        return values[self._output].float()

    def _read_step(self, node: onnx.NodeProto, model: Path) -> "_Step":
        if node.op_type not in _OPERATORS or len(node.output) != 1:
            message = (
                f"{model} has the operator {node.op_type}, which only TensorRT runs here: build the bundle's plan "
                f"with `unlensed bundle build`"
            )
            raise BundleMismatch(message)
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        compute = _OPERATORS[node.op_type](attributes, [self._weights.get(name) for name in node.input])
        return _Step(node.op_type, list(node.input), node.output[0], compute)

    def _place(self, names: Sequence[str], dtype: torch.dtype | None) -> None:
        """Lay a convolution's weights out channels last, narrowed to `dtype`."""
        for name in names:
            weight = self._weights[name] if dtype is None else self._weights[name].to(dtype)
            layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format  # noqa: PLR2004 - OIHW
            self._weights[name] = weight.contiguous(memory_format=layout)


def _read_tensor(tensor: onnx.TensorProto) -> Tensor:
    """Return a constant of the graph; NumPy has no FP8, so its bytes are handed over."""
    values = numpy_helper.to_array(tensor).copy()
    if tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN:
        return torch.from_numpy(values.view(np.uint8)).view(torch.float8_e4m3fn)
    return torch.from_numpy(values)


def _cast(attributes: Attributes, _: Weights) -> Compute:
    dtype = _CAST[attributes["to"]]
    return lambda x: x.to(dtype)


def _clip(_: Attributes, weights: Weights) -> Compute:
    low, high = (None if weight is None else weight.item() for weight in (*weights[1:], None, None)[:2])
    return lambda x, *_bounds: torch.clamp(x, low, high)


def _convolve(attributes: Attributes, _: Weights) -> Compute:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    symmetric = (top, left) == (bottom, right)
    options = {
        "stride": attributes.get("strides", [1, 1]),
        "padding": [top, left] if symmetric else 0,
        "dilation": attributes.get("dilations", [1, 1]),
        "groups": attributes.get("group", 1),
    }

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not symmetric:
            x = functional.pad(x, [left, right, top, bottom])
        return functional.conv2d(x.to(weight.dtype), weight, bias, **options)

    return compute


def _multiply_matrices(attributes: Attributes, _: Weights) -> Compute:
    turned = attributes.get("transB", 0)
    return lambda x, weight, bias=None: functional.linear(x, weight if turned else weight.T, bias)


def _pool_maximum(attributes: Attributes, _: Weights) -> Compute:
    top, left, *_end = attributes.get("pads", [0, 0, 0, 0])
    return lambda x: functional.max_pool2d(
        x, attributes["kernel_shape"], attributes["strides"], [top, left], ceil_mode=bool(attributes.get("ceil_mode"))
    )


def _average(attributes: Attributes, weights: Weights) -> Compute:
    axes = attributes.get("axes") or (weights[1].tolist() if len(weights) > 1 and weights[1] is not None else None)
    keep = bool(attributes.get("keepdims", 1))
    return lambda x, *_axes: x.float().mean(dim=axes, keepdim=keep)  # features are FP32 from here on


def _transpose(attributes: Attributes, _: Weights) -> Compute:
    return lambda x: x.permute(attributes["perm"])


def _quantise(attributes: Attributes, _: Weights) -> Compute:
    axis = attributes.get("axis", 1)

    def compute(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        levels = x.float() / _spread(scale, x, axis).float()
        if zero.dtype.is_floating_point:  # FP8, whose zero point is nought
            limit = torch.finfo(zero.dtype).max
            return torch.clamp(levels, -limit, limit).to(zero.dtype)
        limits = torch.iinfo(zero.dtype)
        return torch.clamp(torch.round(levels) + _spread(zero, x, axis), limits.min, limits.max)

    return compute


def _dequantise(attributes: Attributes, _: Weights) -> Compute:
    axis = attributes.get("axis", 1)

    def compute(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return ((x.float() - _spread(zero, x, axis).float()) * _spread(scale, x, axis).float()).to(scale.dtype)

    return compute


def _spread(values: Tensor, over: Tensor, axis: int) -> Tensor:
    """Return one value a channel, shaped to be multiplied with `over`."""
    return values.reshape([-1 if stream == axis else 1 for stream in range(over.ndim)]) if values.ndim else values


_OPERATORS: dict[str, Callable[[Attributes, Weights], Compute]] = {
    "Add": lambda *_: torch.add,
    "Cast": _cast,
    "Clip": _clip,
    "Conv": _convolve,
    "DequantizeLinear": _dequantise,
    "Gemm": _multiply_matrices,
    "MaxPool": _pool_maximum,
    "Mul": lambda *_: torch.mul,
    "QuantizeLinear": _quantise,
    "ReduceMean": _average,
    "Relu": lambda *_: torch.relu,
    "Transpose": _transpose,
}
