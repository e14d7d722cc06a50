"""Where the faces of an encoded image are.

Detection decides which pixels are scored, so training and serving must use the same detector: a bundle
carries its weights and its `DetectorSpec`. The image is decoded once, reduced inside the JPEG decoder
where it is a JPEG, and shown to the network at one to three sizes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from PIL import Image

from ingest.damage import measure_damage
from ingest.orientation import turn_upright
from ingest.probe import ImageInfo, strip_metadata
from ingest.pyramid import TILE_PX, cut_tiles, merge_boxes
from ingest.reasons import Unscorable
from ingest.spec import FaceBox

if TYPE_CHECKING:
    from ingest.blazeface import BlazeFace


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
        from ingest.decode import decode_reduced  # noqa: PLC0415 - who only reads a bundle need not have simplejpeg

        scales = plan_scales(info, self.spec)
        try:
            stored, warning = decode_reduced(strip_metadata(data, info.media_type), info, scales[0])
        except Unscorable as failure:
            raise Unscorable(info.damage_reason, failure.detail) from failure
        image = Image.fromarray(turn_upright(stored, info.orientation))
        tiles = list(cut_tiles(image, (info.width, info.height), scales, TILE_PX, self.spec.tile_overlap_px))
        # Weaker rows than are reported still help to average a box.
        found = self.network.find(np.stack([tile.pixels for tile in tiles]), self.spec.min_confidence / 2)
        rows = np.concatenate([tile.to_image(rows) for tile, rows in zip(tiles, found, strict=True)])
        faces = merge_boxes(rows, self.spec.min_confidence, self.spec.max_overlap)
        faces[:, :2] += faces[:, 2:4] * (0.5 + np.array(self.spec.box_shift) - np.array(self.spec.box_scale) / 2)
        faces[:, 2:4] *= self.spec.box_scale
        wanted = faces[faces[:, 2:4].min(axis=1) >= self.spec.min_face_px]
        if warning and not len(wanted):
            damage = measure_damage(data, info, stored, warning, lambda file: decode_reduced(file, info, scales[0]))
            if damage.hides(self.spec.min_face_px * stored.shape[1] / info.stored_size[0]):
                message = f"pixels are missing or wrong where a face may be; the decoder says: {warning}"
                raise Unscorable(info.damage_reason, message)
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
