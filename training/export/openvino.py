"""Export a trained extractor to an OpenVINO graph at a given precision."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ingest.openvino_core import list_operations, ov, write_network
from training.export.head import HeadedExtractor
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR
from training.recipes import Precision

MODEL_FILE = "face_extractor/1/model.xml.xz"


def convert_extractor(extractor: nn.Module, size: int) -> ov.Model:
    """Trace `extractor` to an FP32 graph: `crops` uint8 [N, size, size, 3] to `features` FP32 [N, D]."""
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        model: ov.Model = ov.convert_model(
            extractor.eval().to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]  # torch's stub
            example_input=example,
            input=[([-1, size, size, 3], ov.Type.u8)],
        )
    model.inputs[0].get_tensor().set_names({INPUT_TENSOR})
    model.outputs[0].get_tensor().set_names({OUTPUT_TENSOR})
    return model


def quantise(
    model: ov.Model, precision: Precision, calibration_crops: NDArray[np.uint8], kept: Sequence[str] = ()
) -> ov.Model:
    """Return `model` at `precision`; features stay FP32.

    Args:
        model: the FP32 graph.
        precision: "int8" quantises weights and activations, with ranges from `calibration_crops`; FP16 is applied when
            the graph is written. (Int8 for weights only is not supported: OpenVINO 2026.4 then computes wrong features
            with two streams, which change log-likelihoods by hundreds of nats.)
        calibration_crops: [N, S, S, 3] photographs.
        kept: names of operations that are not quantised.
    """
    if precision == "int8":
        import nncf  # noqa: PLC0415 - must be imported after ingest.openvino_core configures OpenVINO

        data = nncf.Dataset(list(calibration_crops[:, None]), lambda crop: {INPUT_TENSOR: crop})
        return nncf.quantize(
            model,
            data,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration_crops),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=list(kept)),
            # Uses half of the weights' range: CPUs without VNNI add int8 products in 16 bits, where the full range
            # overflows (measured: 135 nats). With the fix, all x86-64 CPUs compute bit-identical features.
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
    return model


def write_model(model: ov.Model, path: Path, precision: Precision) -> None:
    """Write the graph at `path`, *.xml.xz, and its weights beside it, without the metadata of tools."""
    strip_metadata(model)
    write_network(model, path, half=precision != "fp32")


def strip_metadata(model: ov.Model) -> None:
    """Remove the metadata of the conversion: it contains paths of this machine and takes space."""
    info: Any = model.get_rt_info()
    for key in list(info):
        del info[key]
    for index, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"n{index}")


def export_extractor(
    extractor: nn.Module, folder: Path, precision: Precision, calibration_crops: NDArray[np.uint8]
) -> Path:
    """Convert, quantise and write `extractor` into the bundle `folder`; return the graph's path."""
    path = folder / MODEL_FILE
    shutil.rmtree(path.parent, ignore_errors=True)
    model = convert_extractor(extractor, calibration_crops.shape[1])
    # Seven bits of the first weights lose the fine noise that tells copies from photographs (AUC .93 instead of .97).
    kept = list_operations(model, "Convolution")[:1]
    # A head enlarges directions with little variance, and the likelihood is computed from its outputs.
    if isinstance(extractor, HeadedExtractor):
        kept.append(list_operations(model, "MatMul")[-1])
    write_model(quantise(model, precision, calibration_crops, kept), path, precision)
    return path
