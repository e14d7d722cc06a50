"""Where the faces of an encoded image are.

Detection decides which pixels are scored, so training and serving must use the same detector: a bundle
carries its weights and its `DetectorSpec`. The image is decoded once, reduced (inside the JPEG decoder
where it is a JPEG), and shown to the network at several sizes, because one pass finds faces of about a
tenth to two thirds of the input side only.
"""

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.blazeface import BlazeFace
from ingest.probe import ImageInfo
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox


@dataclass(frozen=True, slots=True)
class Detection:
    """A found face: its box in upright image pixels and the detector's confidence, 0 to 1."""

    box: FaceBox
    confidence: float


class FaceDetector(Protocol):
    """Finds the faces of one encoded image."""

    def detect(self, data: bytes, info: ImageInfo) -> list[Detection]:
        """Return the faces, most confident first; none is an empty list, not an error.

        Raises:
            Unscorable: the bytes cannot be decoded.
        """


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """Which detector a bundle carries and where it was set to work; stored under `detector`.

    Attributes:
        file: weights, relative to the bundle's folder.
        architecture: names the code that reads the file.
        min_face_px: faces whose shorter side is smaller, in image pixels, are not looked for.
        network_face_px: (smallest, largest) shorter side of a face, in network input pixels, found reliably.
        level_step: each level of the pyramid is this many times smaller than the one before.
        max_level_pixels: area of the largest level; beyond it large photographs lose their smallest faces.
        min_confidence: faces below are not reported.
        max_overlap: of two boxes that share more than this part of the smaller one, the weaker goes.
        box_scale: (width, height) of the reported box in units of the network's square box.
        box_shift: (right, down) shift of the centre in the same units. Scale and shift were fitted so
            that boxes agree with YuNet's convention, hairline-to-chin, on photographs.
    """

    file: str = "face_detector/1/model.tflite"
    architecture: Literal["blazeface-full-range-sparse"] = "blazeface-full-range-sparse"
    min_face_px: float = 64.0
    network_face_px: tuple[float, float] = (16.0, 96.0)
    level_step: float = 3.0
    max_level_pixels: int = 640 * 640
    min_confidence: float = 0.6
    max_overlap: float = 0.5
    box_scale: tuple[float, float] = (0.89, 1.155)
    box_shift: tuple[float, float] = (0.015, -0.06)

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Self:
        """Rebuild a spec from a bundle's JSON object.

        Raises:
            TypeError: a field is missing or unknown, so the bundle was cut for another version.
        """
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})  # type: ignore[arg-type]  # checked by the constructor's signature


def load_detector(folder: Path, spec: DetectorSpec, threads: int) -> FaceDetector:
    """Load the detector of the bundle in `folder`; it may be shared between threads.

    Raises:
        ValueError: the weights are missing or are not the architecture that `spec` names.
    """
    model = folder / spec.file
    if not model.is_file():
        message = f"{model}: the bundle's face detector is missing; fetch the bundle again or bring boxes"
        raise ValueError(message)
    return PyramidDetector(BlazeFace(model, threads), spec)


@dataclass(frozen=True, slots=True)
class PyramidDetector:
    """Runs the network over an image pyramid and merges what it finds."""

    network: BlazeFace
    spec: DetectorSpec

    def detect(self, data: bytes, info: ImageInfo) -> list[Detection]:
        """Return the faces of one image; see `FaceDetector.detect`."""
        scales = _level_scales(info, self.spec)
        image = _decode_reduced(data, info, scales[0])
        found = []
        for scale in scales:
            size = (max(1, round(info.width * scale)), max(1, round(info.height * scale)))
            level = np.asarray(image.resize(size, Image.Resampling.BILINEAR) if size != image.size else image)
            rows = self.network.find(level, self.spec.min_confidence / 2)
            rows[:, [0, 2]] *= info.width / size[0]
            rows[:, [1, 3]] *= info.height / size[1]
            found.append(rows)
        merged = _merge(np.concatenate(found), self.spec)
        return [Detection(FaceBox(*map(float, row[:4])), float(row[4])) for row in merged]


def _level_scales(info: ImageInfo, spec: DetectorSpec) -> list[float]:
    """Return falling scale factors, at most 1: from the smallest wanted face to one that fills the image."""
    smallest_px, largest_px = spec.network_face_px
    scale = min(1.0, smallest_px / spec.min_face_px, math.sqrt(spec.max_level_pixels / (info.width * info.height)))
    scales = [scale]
    while min(info.width, info.height) * scales[-1] > largest_px:
        scales.append(scales[-1] / spec.level_step)
    return scales


def _decode_reduced(data: bytes, info: ImageInfo, scale: float) -> Image.Image:
    """Return the upright RGB image, at `scale` of its size or up to twice that.

    Raises:
        Unscorable: Pillow cannot decode the bytes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `probe_image` has set the limits
            image = Image.open(io.BytesIO(data))
        image.draft("RGB", (math.ceil(image.width * scale), math.ceil(image.height * scale)))
        image.load()
        return _turn_upright(_convert_rgb(image), info.orientation)
    except Exception as error:  # decoders raise anything on foreign bytes: OSError, SyntaxError, struct.error
        raise Unscorable(Reason.UNDECODABLE, f"the decoder failed with {type(error).__name__}") from error


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Undo an EXIF orientation, 1 to 8."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _convert_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to 8-bit RGB; alpha is dropped, 16-bit grey scaled (Pillow would clip it)."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    return image.convert("RGB")


_SAME_SIZE_IOU = 0.5  # below, one box is only a part of the other and would drag the average away


def _merge(rows: NDArray[np.float64], spec: DetectorSpec) -> list[NDArray[np.float64]]:
    """Return one row a face, most confident first, in the reported convention.

    Rows that overlap a stronger one are one face with it: those nearly as large are averaged into its
    box, weighted by confidence (Bazarevsky et al., section 3), which steadies the box between sizes.
    """
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    faces = []
    while len(rows) and rows[0, 4] >= spec.min_confidence:
        smaller, union = _overlap(rows[0], rows)
        same, agree = smaller > spec.max_overlap, union > _SAME_SIZE_IOU
        same[0] = agree[0] = True
        weight = rows[agree, 4]
        face = np.append(weight @ rows[agree, :4] / weight.sum(), rows[0, 4])
        face[:2] += face[2:4] * (0.5 + np.array(spec.box_shift) - np.array(spec.box_scale) / 2)
        face[2:4] *= spec.box_scale
        if min(face[2:4]) >= spec.min_face_px:
            faces.append(face)
        rows = rows[~same]
    return faces


def _overlap(row: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each box's intersection with `row` over the smaller area, and over the union."""
    low = np.maximum(rows[:, :2], row[:2])
    high = np.minimum(rows[:, :2] + rows[:, 2:4], row[:2] + row[2:4])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas, area = np.prod(rows[:, 2:4], axis=1), np.prod(row[2:4])
    return shared / np.minimum(areas, area), shared / (areas + area - shared)
