"""Finds the faces of an encoded image.

Detection decides which pixels are scored, so that training and serving must use the same detector: a bundle contains
its weights and its `DetectorSpec`. The image is decoded once (a JPEG is reduced inside its decoder), and the network
gets it at one to three sizes. It gets candidates of which it is not sure a second time, each alone and equally large.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.damage import measure_damage
from ingest.network_files import list_network_files
from ingest.orientation import turn_upright
from ingest.probe import ImageInfo, strip_metadata
from ingest.pyramid import TILE_PX, cut_tile_around, cut_tiles, find_matching_confidence, merge_boxes
from ingest.reasons import Unscorable
from ingest.spec import FaceBox

if TYPE_CHECKING:
    from ingest.yunet import YuNet

TILES = ((TILE_PX, TILE_PX), (512, 384), (384, 512))  # (width, height) of the network's inputs
_REDUCTIONS = (8, 4, 2)  # by which decoders of JPEG reduce at little cost
_NEARLY = 1.12
CUT_OFF_CONFIDENCE = 0.7  # least one of a face mostly outside the image; it is reported where there is no other face


@dataclass(frozen=True, slots=True)
class Detection:
    """A found face: its box in upright image pixels, and the higher confidence of both looks, 0 to 1.

    `sound` states of its image what `ImageInfo.sound` does, and is not compared.
    """

    box: FaceBox
    confidence: float
    sound: bool = field(default=False, compare=False)


class FaceDetector(Protocol):
    """Finds the faces of one encoded image."""

    def detect(self, data: bytes, info: ImageInfo, min_face_px: float | None = None) -> list[Detection]:
        """Return the faces, most confident first; an image without a face gives an empty list.

        Args:
            data: the encoded image.
            info: the result of `probe_image`.
            min_face_px: shorter side of the smallest face that the caller wants, where it is less than the detector's
                own. Smaller faces are returned only if there is no other one: such an image is not one without a face,
                but people in the background of a portrait do not count.

        Raises:
            Unscorable: the bytes cannot be decoded.
        """


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """The detector of a bundle and its thresholds; stored under `detector`.

    Attributes:
        file: the network, relative to the bundle's folder.
        architecture: the code that reads the file.
        merged_confidence: least confidence of a row that is averaged into a face's box.
        min_confidence: least confidence of a candidate.
        sure_confidence: from here on, a candidate is a face; below, a second look verifies it.
        second_look_px: longer side that a face has in its second look, in network pixels.
        second_confidence: least confidence of the second look for a face.
        second_iou: least intersection over union of the boxes of both looks.
        min_face_px: shorter side, in image pixels, of the smallest face that is searched.
        network_face_px: (smallest, largest) shorter side of a face, in network pixels, that is found reliably.
        max_level_pixels: area of the largest level of the pyramid, or of one that fills one tile. In a photograph so
            large that faces get smaller than `network_face_px` there, the smallest faces are missed.
        level_step: each level is this many times smaller than the level before.
        tile_overlap_px: overlap of neighbouring tiles of a level; at least `level_step` times the smallest face.
        max_overlap: if two boxes share more than this part of the smaller one, the less confident box is dropped.
    """

    file: str = "face_detector/1/model.xml.xz"
    architecture: Literal["yunet"] = "yunet"
    merged_confidence: float = 0.3
    min_confidence: float = 0.4
    sure_confidence: float = 0.8
    second_look_px: float = 64.0
    second_confidence: float = 0.75
    second_iou: float = 0.3
    min_face_px: float = 64.0
    network_face_px: tuple[float, float] = (10.0, 192.0)
    max_level_pixels: int = 512 * 288
    level_step: float = 2.0
    tile_overlap_px: int = 42
    max_overlap: float = 0.5

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the network."""
        return tuple(map(str, list_network_files(PurePosixPath(self.file))))


def load_detector(folder: Path, spec: DetectorSpec, threads: int) -> "PyramidDetector":
    """Load the detector of the bundle in `folder`; it may be shared between threads.

    Raises:
        ValueError: the weights are missing or not of the architecture that `spec` states.
    """
    for model in (folder / name for name in spec.files):
        if not model.is_file():
            message = f"{model}: the bundle's face detector is missing; fetch the bundle again or send face boxes"
            raise ValueError(message)
    from ingest.yunet import YuNet  # noqa: PLC0415 - code that only reads a bundle does not need OpenVINO

    return PyramidDetector(YuNet(folder / spec.file, TILES, threads), spec)


@dataclass(frozen=True, slots=True)
class PyramidDetector:
    """Runs a network on an image pyramid, merges its boxes, and looks at unsure candidates a second time.

    What is found again, alone in a tile and in another size, is nearly always a face. The boxes are those of the first
    look.
    """

    network: "YuNet"
    spec: DetectorSpec

    def detect(self, data: bytes, info: ImageInfo, min_face_px: float | None = None) -> list[Detection]:
        """Return the faces of one image; see `FaceDetector.detect`."""
        from ingest.decode import decode_reduced  # noqa: PLC0415 - code that only reads a bundle needs no simplejpeg

        wanted_px = self._find_smallest(min_face_px)
        scales = plan_scales((info.width, info.height), self.spec, wanted_px)
        try:
            stored, warning = decode_reduced(strip_metadata(data, info.media_type), info, scales[0])
        except Unscorable as failure:
            raise Unscorable(info.damage_reason, failure.detail) from failure
        image = Image.fromarray(turn_upright(stored, info.orientation))
        faces = self._find_faces(image, (info.width, info.height), scales, wanted_px)
        if warning and not len(faces):
            damage = measure_damage(data, info, stored, warning, lambda file: decode_reduced(file, info, scales[0]))
            if damage.can_hide_square(wanted_px * stored.shape[1] / info.stored_size[0]):
                message = f"pixels are missing or wrong where a face may be; the decoder reports: {warning}"
                raise Unscorable(info.damage_reason, message)
        return _list_detections(faces, sound=warning == "")

    def detect_pixels(self, pixels: NDArray[np.uint8], min_face_px: float | None = None) -> list[Detection]:
        """Return the faces of upright RGB pixels (H, W, 3): the same as of these pixels in a PNG, see `detect`."""
        from ingest.decode import reduce_pixels  # noqa: PLC0415 - as in `detect`

        wanted_px = self._find_smallest(min_face_px)
        height, width, _ = pixels.shape
        scales = plan_scales((width, height), self.spec, wanted_px)
        image = Image.fromarray(reduce_pixels(pixels, width * scales[0]))
        return _list_detections(self._find_faces(image, (width, height), scales, wanted_px))

    def _find_smallest(self, min_face_px: float | None) -> float:
        return min(self.spec.min_face_px, min_face_px or self.spec.min_face_px)

    def _find_faces(
        self, image: Image.Image, size: tuple[int, int], scales: list[float], wanted_px: float
    ) -> NDArray[np.float64]:
        """Return the faces (x, y, width, height, confidence) of a reduced upright image of `size` pixels."""
        tiles = list(cut_tiles(image, size, scales, TILES, self.spec.tile_overlap_px))
        # Rows that are too weak to be reported still improve the average of a box.
        found = self.network.find([tile.pixels for tile in tiles], self.spec.merged_confidence)
        rows = np.concatenate([tile.to_image(rows) for tile, rows in zip(tiles, found, strict=True)])
        faces = merge_boxes(rows, self.spec.min_confidence, self.spec.max_overlap)
        short_sides = faces[:, 2:4].min(axis=1)
        wanted = short_sides >= wanted_px
        small = ~wanted & (short_sides >= self.spec.network_face_px[0] / scales[0])
        scale = image.width / size[0]
        candidates, faces = faces, self._verify_faces(image, scale, faces[wanted])
        if not len(faces):
            faces = self._verify_faces(image, scale, candidates[small])
        if not len(faces):  # a second look cannot verify a face that lies mostly outside the image
            faces = candidates[wanted & (candidates[:, 4] >= CUT_OFF_CONFIDENCE)]
            cut_off = [FaceBox(*map(float, face[:4])).is_cut_off(*size) for face in faces]
            faces = faces[np.array(cut_off, bool)]
        return faces

    def _verify_faces(self, image: Image.Image, scale: float, faces: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rows of `faces` that are sure or that a second look verifies, most confident first.

        `image` has `scale` times the size to which the rows (x, y, width, height, confidence) refer.
        """
        unsure = np.flatnonzero(faces[:, 4] < self.spec.sure_confidence)
        if not len(unsure):
            return faces
        tiles = [
            cut_tile_around(image, faces[index, :4] * scale, self.spec.second_look_px, TILE_PX) for index in unsure
        ]
        found = self.network.find([pixels for pixels, _ in tiles], self.spec.second_confidence)
        for index, (_, box), rows in zip(unsure, tiles, found, strict=True):
            second = find_matching_confidence(box, rows, self.spec.second_iou)
            faces[index, 4] = max(faces[index, 4], second) if second else 0.0
        faces = faces[np.argsort(-faces[:, 4], kind="stable")]
        return faces[faces[:, 4] > 0]


def _list_detections(faces: NDArray[np.float64], *, sound: bool = False) -> list[Detection]:
    return [Detection(FaceBox(*map(float, face[:4])), float(face[4]), sound) for face in faces]


def plan_scales(size: tuple[int, int], spec: DetectorSpec, min_face_px: float) -> list[float]:
    """Return the scale factors of the levels of an image of `size`, descending, at most 1.

    In the first level a face of `min_face_px` can be found, or the image fills one tile, or the level has
    `max_level_pixels`. In the last level a face that fills the image can be found. The first level is a reduction of
    the decoder where one is hardly smaller.
    """
    smallest_px, largest_px = spec.network_face_px
    short, long = sorted(size)
    one_tile = min(largest_px / short, TILE_PX / long)
    fits = max(min(width / size[0], height / size[1]) for width, height in TILES)
    largest = max(fits, math.sqrt(spec.max_level_pixels / (short * long)))
    scale = min(1.0, largest, max(one_tile, smallest_px / min_face_px))
    scale = next((1 / factor for factor in _REDUCTIONS if 1 <= scale * factor <= _NEARLY), scale)
    scales = [scale]
    while short * scales[-1] > largest_px:
        scales.append(scales[-1] / spec.level_step)
    return scales
