"""Export a trained extractor to the ONNX graph from which TensorRT builds a plan.

The graph contains every data type and TensorRT builds it strongly typed, so that only this export decides the precision
of each operation.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from training.export.onnx_fp8 import quantise_to_fp8
from training.export.onnx_precisions import convert_to_fp16, quantise_network
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR
from training.recipes import Precision

ONNX_FILE = "face_extractor/1/model.onnx"
OPSET = 20  # Q/DQ with FP16 scales need 19; TensorRT 10.15 and 11 read both
_TRACED_FACES = 2  # the tracer would treat 1 as a constant


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
        message = "the ONNX exporter returned no program"
        raise RuntimeError(message)
    model: onnx.ModelProto = program.model_proto
    strip_metadata(model)
    return model


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata of each node: it contains paths of this machine and takes space."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")  # shapes of intermediate values, which readers can infer


def export_onnx(extractor: nn.Module, folder: Path, precision: Precision, calibration_crops: NDArray[np.uint8]) -> Path:
    """Convert `extractor` and write it at `precision` into the bundle `folder`; return the graph's path.

    Args:
        extractor: maps [N, S, S, 3] crops to [N, D] features.
        folder: receives `face_extractor/1/model.onnx`.
        precision: "fp32"; "fp16" converts the network between the normalisation and the pooling, which stay FP32 like
            the features; "int8" quantises that network's convolutions and keeps the rest FP32, because the scale of a
            channel with small weights would be zero in FP16; "fp8" is "fp16" with FP8 for the convolutions for which
            GPUs have fast kernels.
        calibration_crops: [N, S, S, 3] photographs, for "int8" and "fp8".

    Raises:
        ValueError: no convolution of the network can use "fp8", or a number exceeds the range of FP16.
        onnx.checker.ValidationError: the graph is invalid, which is a defect of this program.
    """
    model = convert_to_onnx(extractor, calibration_crops.shape[1])
    if precision == "int8":
        model = quantise_network(model, calibration_crops)
    if precision == "fp8":
        quantise_to_fp8(model, calibration_crops)
    if precision in {"fp16", "fp8"}:
        convert_to_fp16(model)
    strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    path = folder / ONNX_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
