"""Write the face detector's network into a bundle.

YuNet is `onnx/yunet_n_dynamic.onnx` of ShiqiYu/libfacedetection.train (Apache-2.0), converted by `convert_yunet`. No
Python package contains it, so that each bundle gets the starter's.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest.detect import DetectorSpec
from ingest.openvino_core import ov, read_network, write_network
from scorer.settings import find_starter

SPEC = DetectorSpec()  # the detector of runs and of their bundles
LICENCE = "Apache-2.0 (yunet_n of libfacedetection.train)"


def copy_detector(folder: Path) -> Path:
    """Copy the network into the bundle `folder` and return its path."""
    for name in SPEC.files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(find_starter() / name, target)
    return folder / SPEC.file


def convert_yunet(onnx: Path, graph: Path) -> None:
    """Write YuNet as *.xml.xz without its landmarks and its last sigmoids, in half precision.

    The heads of a grid become one head with six numbers a cell: convolutions with one output channel give other last
    bits on other CPUs.
    """
    from openvino.passes import ConstantFolding, Manager  # noqa: PLC0415, TID251 - after `ingest.openvino_core`

    network, passes = read_network(onnx), Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(network)  # biases are reshaped constants
    outputs = []
    for stride in (8, 16, 32):
        heads = [_Head.ending_at(network.output(f"{part}_{stride}")) for part in ("cls", "obj", "bbox")]
        weights, biases = _join([head.pointwise for head in heads])
        cells = ov.opset13.convolution(heads[0].features, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        cells = ov.opset13.add(cells, biases)
        weights, biases = _join([head.depthwise for head in heads])
        cells = ov.opset13.group_convolution(cells, weights[:, np.newaxis], [1, 1], [1, 1], [1, 1], [1, 1])
        cells = ov.opset13.add(cells, biases)
        cells = ov.opset13.transpose(cells, np.array([0, 2, 3, 1])).output(0)
        cells.get_tensor().set_names({f"cells_{stride}"})
        outputs.append(cells)
    reduced = ov.Model(outputs, network.get_parameters(), "yunet")
    for index, node in enumerate(reduced.get_ordered_ops()):
        node.set_friendly_name(f"n{index}")
    for key in list(reduced.get_rt_info()):
        del reduced.get_rt_info()[key]
    write_network(reduced, graph, half=True)


class _Convolution(NamedTuple):
    weights: NDArray[np.float32]  # (C, I, height, width)
    biases: NDArray[np.float32]  # (1, C, 1, 1)


def _join(convolutions: Sequence[_Convolution]) -> _Convolution:
    """Return one convolution with the output channels of all."""
    weights, biases = zip(*convolutions, strict=True)
    return _Convolution(np.concatenate(weights), np.concatenate(biases, axis=1))


class _Head(NamedTuple):
    """The two convolutions of a head, and what it is computed from."""

    features: ov.Output
    pointwise: _Convolution
    depthwise: _Convolution

    @classmethod
    def ending_at(cls, output: ov.Output) -> "_Head":
        """Return the head that gives one of the network's outputs."""
        node, found, biases = output.get_node(), list[_Convolution](), np.empty(0, np.float32)
        while len(found) < 2:  # noqa: PLR2004 - the depthwise one, then the pointwise one
            kind, inputs = node.get_type_name(), [each.get_source_output() for each in node.inputs()]
            if kind == "Add":
                biases = inputs[1].get_node().get_data().reshape(1, -1, 1, 1)
            elif kind in {"Convolution", "GroupConvolution"}:
                weights = inputs[1].get_node().get_data()
                found.append(_Convolution(weights.reshape(weights.shape[0], -1, *weights.shape[-2:]), biases))
            node, features = inputs[0].get_node(), inputs[0]
        return cls(features, found[1], found[0])
