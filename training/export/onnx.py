"""A trained extractor to the ONNX graph that a GPU's TensorRT is built from; every type stands in the graph.

TensorRT builds it strongly typed, so that nothing but this file decides what is computed in how many bits.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from training.export.onnx_fp8 import quantise_to_fp8
from training.export.onnx_precisions import halve_network, quantise_network
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR
from training.recipes import Precision

ONNX_FILE = "face_extractor/1/model.onnx"
OPSET = 20  # Q/DQ with FP16 scales need 19; TensorRT 10.15 and 11 read both
_TRACED_FACES = 2  # one would be taken for a constant


def convert_to_onnx(extractor: nn.Module, size: int) -> onnx.ModelProto:
    """Trace `extractor` to an FP32 graph: `crops` uint8 [N, size, size, 3] to `features` FP32 [N, D], any N."""
    example = torch.zeros((_TRACED_FACES, size, size, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        extractor.eval(),
        (example,),
        input_names=[INPUT_TENSOR],
        output_names=[OUTPUT_TENSOR],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        message = "the ONNX exporter gave no program"
        raise RuntimeError(message)
    model: onnx.ModelProto = program.model_proto
    strip_notes(model)
    return model


def strip_notes(model: onnx.ModelProto) -> None:
    """Forget where the exporter met each node: its notes name the machine's paths and cost bytes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")  # shapes of the values between, which whoever needs them infers


def export_onnx(extractor: nn.Module, folder: Path, precision: Precision, calibration_crops: NDArray[np.uint8]) -> Path:
    """Convert `extractor` and write it at `precision` into the bundle `folder`; return the graph's path.

    Args:
        extractor: maps [N, S, S, 3] crops to [N, D] features.
        folder: receives `face_extractor/1/model.onnx`.
        precision: "fp32"; "fp16" for the network between the normalisation and the pooling, which stay FP32 as the
            features do; "int8" quantises that network's convolutions, and the little that is left is FP32: a scale
            of a channel with small weights would be nought in FP16; "fp8" is "fp16" with those convolutions in FP8
            that a GPU has quick kernels for.
        calibration_crops: [N, S, S, 3] photographs, for "int8" and "fp8".

    Raises:
        ValueError: the network has nothing to gain by "fp8", or a number is beyond what FP16 holds.
        onnx.checker.ValidationError: the graph is no valid ONNX: a fault of this program.
    """
    model = convert_to_onnx(extractor, calibration_crops.shape[1])
    if precision == "int8":
        model = quantise_network(model, calibration_crops)
    if precision == "fp8":
        quantise_to_fp8(model, calibration_crops)
    if precision in {"fp16", "fp8"}:
        halve_network(model)
    strip_notes(model)
    onnx.checker.check_model(model, full_check=True)
    path = folder / ONNX_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
