"""Where the faces of an encoded image are.

Detection decides which pixels are scored, so training and serving must use the same detector: a bundle
carries its weights and its `DetectorSpec`. The image is decoded once, reduced inside the JPEG decoder
where it is a JPEG, and shown to the network at one to three sizes.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from PIL import Image

from ingest.orientation import turn_upright
from ingest.probe import DEFAULT_LIMITS, ImageInfo
from ingest.pyramid import TILE_PX, cut_tiles, merge_boxes
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox

if TYPE_CHECKING:
    from ingest.blazeface import BlazeFace

# `probe_image` has judged the size already; Pillow only warns above its own, lower limit.
Image.MAX_IMAGE_PIXELS = DEFAULT_LIMITS.max_pixels


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
        min_confidence: faces below are not reported.
        min_face_px: faces whose shorter side is smaller, in image pixels, are not reported.
        network_face_px: (smallest, largest) shorter side of a face, in network pixels, that is found reliably.
        max_level_pixels: area of the largest level of the pyramid; in a photograph so large that this
            shrinks faces below `network_face_px`, the smallest faces are missed.
        level_step: each level is this many times smaller than the one before.
        tile_overlap_px: what neighbouring tiles of a level share; at least `level_step` smallest faces.
        max_overlap: of two boxes that share more than this part of the smaller one, the weaker goes.
        box_scale: (width, height) of the reported box in units of the network's square box.
        box_shift: (right, down) shift of the centre in the same units. Scale and shift make the boxes
            agree on average with YuNet's, which reach from the hairline to the chin.
    """

    file: str = "face_detector/1/model.tflite"
    architecture: Literal["blazeface-back"] = "blazeface-back"
    min_confidence: float = 0.7
    min_face_px: float = 64.0
    network_face_px: tuple[float, float] = (14.0, 192.0)
    max_level_pixels: int = 290_000
    level_step: float = 3.0
    tile_overlap_px: int = 42
    max_overlap: float = 0.5
    box_scale: tuple[float, float] = (0.937, 1.23)
    box_shift: tuple[float, float] = (0.0, -0.104)


def load_detector(folder: Path, spec: DetectorSpec, threads: int) -> FaceDetector:
    """Load the detector of the bundle in `folder`; it may be shared between threads.

    Raises:
        ValueError: the weights are missing or are not the architecture that `spec` names.
    """
    model = folder / spec.file
    if not model.is_file():
        message = f"{model}: the bundle's face detector is missing; fetch the bundle again or bring boxes"
        raise ValueError(message)
    from ingest.blazeface import BlazeFace  # noqa: PLC0415 - who only reads a bundle need not have OpenVINO

    return PyramidDetector(BlazeFace(model, threads), spec)


@dataclass(frozen=True, slots=True)
class PyramidDetector:
    """Runs the network over an image pyramid and merges what it finds."""

    network: "BlazeFace"
    spec: DetectorSpec

    def detect(self, data: bytes, info: ImageInfo) -> list[Detection]:
        """Return the faces of one image; see `FaceDetector.detect`."""
        scales = plan_scales(info, self.spec)
        image = _decode_reduced(data, info, scales[0])
        tiles = list(cut_tiles(image, (info.width, info.height), scales, TILE_PX, self.spec.tile_overlap_px))
        # Weaker rows than are reported still help to average a box.
        found = self.network.find(np.stack([tile.pixels for tile in tiles]), self.spec.min_confidence / 2)
        rows = np.concatenate([tile.to_image(rows) for tile, rows in zip(tiles, found, strict=True)])
        faces = merge_boxes(rows, self.spec.min_confidence, self.spec.max_overlap)
        faces[:, :2] += faces[:, 2:4] * (0.5 + np.array(self.spec.box_shift) - np.array(self.spec.box_scale) / 2)
        faces[:, 2:4] *= self.spec.box_scale
        wanted = faces[faces[:, 2:4].min(axis=1) >= self.spec.min_face_px]
        return [Detection(FaceBox(*map(float, face[:4])), float(face[4])) for face in wanted]


def plan_scales(info: ImageInfo, spec: DetectorSpec) -> list[float]:
    """Return the levels' scale factors, falling, at most 1.

    The first shows the smallest wanted face, or fills one tile, or is as large as is affordable; the
    last shows a face that fills the image.
    """
    smallest_px, largest_px = spec.network_face_px
    short, long = sorted((info.width, info.height))
    one_tile = min(largest_px / short, TILE_PX / long)
    affordable = math.sqrt(spec.max_level_pixels / (short * long))
    scales = [min(1.0, affordable, max(one_tile, smallest_px / spec.min_face_px))]
    while short * scales[-1] > largest_px:
        scales.append(scales[-1] / spec.level_step)
    return scales


def _decode_reduced(data: bytes, info: ImageInfo, scale: float) -> Image.Image:
    """Return the upright RGB image at `scale` of its size or up to twice that.

    Raises:
        Unscorable: Pillow cannot decode the bytes.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
            stored = _convert_rgb(image)
    except Exception as error:  # Pillow's parsers leak SyntaxError, struct.error and more on bad bytes
        raise Unscorable(Reason.UNDECODABLE, f"Pillow cannot decode it: {type(error).__name__}") from error
    factor = max(1, math.floor(stored.width / (info.stored_size[0] * scale)))
    return Image.fromarray(turn_upright(np.asarray(stored.reduce(factor)), info.orientation))


def _convert_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to 8-bit RGB: alpha is dropped, 16-bit grey scaled, which Pillow would clip."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    # A palette may have transparency, which Pillow drops without a warning only by way of RGBA.
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
