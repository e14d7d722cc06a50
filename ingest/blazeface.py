"""BlazeFace full-range on OpenVINO: an RGB array of any size in, raw face boxes out.

The network is the sparse full-range model of MediaPipe (Bazarevsky et al., "BlazeFace: Sub-millisecond
Neural Face Detection on Mobile GPUs", 2019), read from the unchanged `.tflite` file. It has one anchor
per cell of a stride-4 grid and is fully convolutional, so it runs here on whole images instead of its
192 x 192 crops; only its three fixed-size upsamplings have to be told to double instead.
"""

import threading
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13
from openvino.preprocess import PrePostProcessor

STRIDE_PX = 4
"""Distance between two anchors, in input pixels."""

SIDE_MULTIPLE_PX = 32
"""Input sides are padded to this multiple: five halvings and five doublings must meet."""

_BOX_FIELDS = 16  # per anchor: centre x, y, width, height, then six landmarks that are not used here
_LOGIT_LIMIT = 60.0  # exp() of more overflows nothing in float64, and changes no float32 probability


class BlazeFace:
    """The compiled network.

    Safe to share between threads: inference is serialised by a lock, everything else is pure.

    Raises:
        ValueError: the file is not a full-range BlazeFace model that OpenVINO can read.
    """

    def __init__(self, model: Path, threads: int) -> None:
        self._lock = threading.Lock()
        self._request = _compile(model, threads).create_infer_request()

    def find(self, image: NDArray[np.uint8], min_confidence: float) -> NDArray[np.float64]:
        """Return one row (x, y, width, height, confidence) for every anchor at least `min_confidence` sure.

        Coordinates are pixels of `image` (uint8 RGB), corner and size; rows overlap freely.
        """
        height, width = image.shape[:2]
        pad = ((0, -height % SIDE_MULTIPLE_PX), (0, -width % SIDE_MULTIPLE_PX), (0, 0))
        with self._lock:
            self._request.infer([np.pad(image, pad)[np.newaxis]])
            outputs = [self._request.get_output_tensor(index).data.copy() for index in range(2)]
        boxes, logits = sorted((output[0] for output in outputs), key=lambda output: -output.shape[-1])
        return decode_anchors(boxes, logits[..., 0], min_confidence)


def decode_anchors(
    boxes: NDArray[np.float32], logits: NDArray[np.float32], min_confidence: float
) -> NDArray[np.float64]:
    """Return rows (x, y, width, height, confidence) in input pixels from the two output grids.

    The regressed centre is relative to the middle of the anchor's cell; sizes are absolute.
    """
    confidence = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -_LOGIT_LIMIT, _LOGIT_LIMIT)))
    row, column = np.nonzero(confidence >= min_confidence)
    centre_x, centre_y, width, height = boxes[row, column, :4].astype(np.float64).T
    left = centre_x + (column + 0.5) * STRIDE_PX - width / 2
    top = centre_y + (row + 0.5) * STRIDE_PX - height / 2
    found: NDArray[np.float64] = np.stack([left, top, width, height, confidence[row, column]], axis=1)
    return found[(width > 0) & (height > 0)]


def _compile(model: Path, threads: int) -> ov.CompiledModel:
    """Read the file, free its input size, put the normalisation in front and compile for the CPU."""
    core = ov.Core()
    try:
        network = _free_input_size(core.read_model(model))
    except RuntimeError as error:
        message = f"{model}: not a BlazeFace model that OpenVINO can read ({error}); verify the bundle"
        raise ValueError(message) from error
    steps = PrePostProcessor(network)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NHWC"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean(127.5).scale(127.5)
    # FP32 on every CPU: bfloat16, OpenVINO's choice where the CPU has it, would move boxes between machines.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return core.compile_model(steps.build(), "CPU", settings)


def _free_input_size(network: ov.Model) -> ov.Model:
    """Return the network with any input height and width, and with its output grids unflattened."""
    for node in network.get_ordered_ops():
        if node.get_type_name() == "Interpolate":
            doubled = opset13.interpolate(
                node.input_value(0),
                opset13.constant(np.array([2, 2], np.float32)),
                "linear_onnx",
                "scales",
                axes=opset13.constant(np.array([1, 2], np.int64)),
                coordinate_transformation_mode="half_pixel",
            )
            for consumer in node.output(0).get_target_inputs():
                consumer.replace_source_output(doubled.output(0))
    grids = [result.input_value(0).get_node().input_value(0) for result in network.get_results()]
    free = ov.Model(grids, network.get_parameters(), "blazeface_full_range")
    free.reshape([1, -1, -1, 3])
    return free
