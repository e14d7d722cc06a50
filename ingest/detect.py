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
from PIL import Image

from ingest.blazeface import TILE_PX, BlazeFace
from ingest.probe import ImageInfo
from ingest.pyramid import cut_tiles, merge_boxes
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
        tile_overlap_px: what neighbouring tiles of a level share; at least `level_step` smallest faces.
        min_confidence: faces below are not reported.
        max_overlap: of two boxes that share more than this part of the smaller one, the weaker goes.
        box_scale: (width, height) of the reported box in units of the network's square box.
        box_shift: (right, down) shift of the centre in the same units. Scale and shift were fitted so
            that boxes agree with YuNet's convention, hairline-to-chin, on photographs.
    """

    file: str = "face_detector/1/model.tflite"
    architecture: Literal["blazeface-back"] = "blazeface-back"
    min_face_px: float = 64.0
    network_face_px: tuple[float, float] = (14.0, 192.0)
    level_step: float = 3.0
    max_level_pixels: int = 290_000
    tile_overlap_px: int = 42
    min_confidence: float = 0.7
    max_overlap: float = 0.5
    box_scale: tuple[float, float] = (0.9365, 1.232)
    box_shift: tuple[float, float] = (0.0, -0.1058)

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
        tiles = list(cut_tiles(image, (info.width, info.height), scales, TILE_PX, self.spec.tile_overlap_px))
        found = self.network.find(np.stack([tile.pixels for tile in tiles]), self.spec.min_confidence / 2)
        rows = np.concatenate([tile.to_image(rows) for tile, rows in zip(tiles, found, strict=True)])
        faces = merge_boxes(rows, self.spec.min_confidence, self.spec.max_overlap)
        faces[:, :2] += faces[:, 2:4] * (0.5 + np.array(self.spec.box_shift) - np.array(self.spec.box_scale) / 2)
        faces[:, 2:4] *= self.spec.box_scale
        wanted = faces[faces[:, 2:4].min(axis=1) >= self.spec.min_face_px]
        return [Detection(FaceBox(*map(float, face[:4])), float(face[4])) for face in wanted]


def _level_scales(info: ImageInfo, spec: DetectorSpec) -> list[float]:
    """Return falling scale factors, at most 1: from the smallest wanted face to one that fills the image."""
    smallest_px, largest_px = spec.network_face_px
    short, long = sorted((info.width, info.height))
    one_tile = min(largest_px / short, TILE_PX / long)
    affordable = math.sqrt(spec.max_level_pixels / (short * long))
    scales = [min(1.0, affordable, max(one_tile, smallest_px / spec.min_face_px))]
    while short * scales[-1] > largest_px:
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
