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
from numpy.typing import NDArray
from PIL import Image

from ingest.damage import measure_damage
from ingest.orientation import turn_upright
from ingest.probe import ImageInfo, strip_metadata
from ingest.pyramid import TILE_PX, cut_around, cut_tiles, find_same, merge_boxes
from ingest.reasons import Unscorable
from ingest.spec import FaceBox

if TYPE_CHECKING:
    from ingest.blazeface import BlazeFace


CUT_OFF_CONFIDENCE = 0.7  # from here on, a face mostly outside the picture is told where no other one is found


@dataclass(frozen=True, slots=True)
class Detection:
    """A found face: its box in upright image pixels and the detector's confidence, 0 to 1, in its surer look."""

    box: FaceBox
    confidence: float


class FaceDetector(Protocol):
    """Finds the faces of one encoded image."""

    def detect(self, data: bytes, info: ImageInfo, min_face_px: float | None = None) -> list[Detection]:
        """Return the faces, most confident first; none is an empty list, not an error.

        Args:
            data: the encoded image.
            info: what `probe_image` said of it.
            min_face_px: short side from which the caller wants faces, where that is less than the detector's own.
                Smaller faces are returned only where no other one is found: they tell such an image from one
                without a face, but people in the background of a portrait are no part of it.

        Raises:
            Unscorable: the bytes cannot be decoded.
        """


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """Which detector a bundle carries and where it was set to work; stored under `detector`.

    Attributes:
        file: weights, relative to the bundle's folder.
        second_file: weights of another network, which looks again at what the first is not sure of.
        architecture: names the code that reads the files.
        merged_confidence: rows of the network from here on are averaged into a face's box.
        min_confidence: rows from here on may be faces.
        sure_confidence: what may be a face is one from here on; below, it is looked at again.
        second_look_px: longer side, in pixels of the second network, that a face has in the second look.
        second_confidence: a face that the second look is less sure of is not reported.
        second_iou: intersection over union that the boxes of both looks must have.
        min_face_px: shorter side, in image pixels, of the smallest face that is looked for.
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
    second_file: str = "face_detector/1/second_look.tflite"
    architecture: Literal["blazeface-back+full-range"] = "blazeface-back+full-range"
    merged_confidence: float = 0.35
    min_confidence: float = 0.5
    sure_confidence: float = 0.9
    second_look_px: float = 40.0
    second_confidence: float = 0.56
    second_iou: float = 0.3
    min_face_px: float = 64.0
    network_face_px: tuple[float, float] = (14.0, 192.0)
    max_level_pixels: int = 290_000
    level_step: float = 3.0
    tile_overlap_px: int = 42
    max_overlap: float = 0.5
    box_scale: tuple[float, float] = (0.937, 1.23)
    box_shift: tuple[float, float] = (0.0, -0.104)

    @property
    def files(self) -> tuple[str, str]:
        """The weights of both networks."""
        return (self.file, self.second_file)


def load_detector(folder: Path, spec: DetectorSpec, threads: int) -> FaceDetector:
    """Load the detector of the bundle in `folder`; it may be shared between threads.

    Raises:
        ValueError: the weights are missing or are not the architecture that `spec` names.
    """
    first, second = (folder / name for name in spec.files)
    for model in (first, second):
        if not model.is_file():
            message = f"{model}: the bundle's face detector is missing; fetch the bundle again or bring boxes"
            raise ValueError(message)
    # Who only reads a bundle need not have OpenVINO.
    from ingest.blazeface import BACK, FULL_RANGE, BlazeFace  # noqa: PLC0415

    return PyramidDetector(BlazeFace(first, BACK, threads), BlazeFace(second, FULL_RANGE, threads), spec)


@dataclass(frozen=True, slots=True)
class PyramidDetector:
    """Runs a network over an image pyramid, merges what it finds and shows another one what it is not sure of.

    What looks like a face to both, at two sizes, hardly ever is none. The boxes are the first network's.
    """

    network: "BlazeFace"
    second: "BlazeFace"
    spec: DetectorSpec

    def detect(self, data: bytes, info: ImageInfo, min_face_px: float | None = None) -> list[Detection]:
        """Return the faces of one image; see `FaceDetector.detect`."""
        from ingest.decode import decode_reduced  # noqa: PLC0415 - who only reads a bundle need not have simplejpeg

        wanted_px = min(self.spec.min_face_px, min_face_px or self.spec.min_face_px)
        scales = plan_scales(info, self.spec, wanted_px)
        try:
            stored, warning = decode_reduced(strip_metadata(data, info.media_type), info, scales[0])
        except Unscorable as failure:
            raise Unscorable(info.damage_reason, failure.detail) from failure
        image = Image.fromarray(turn_upright(stored, info.orientation))
        tiles = list(cut_tiles(image, (info.width, info.height), scales, TILE_PX, self.spec.tile_overlap_px))
        # Weaker rows than are reported still help to average a box.
        found = self.network.find(np.stack([tile.pixels for tile in tiles]), self.spec.merged_confidence)
        rows = np.concatenate([tile.to_image(rows) for tile, rows in zip(tiles, found, strict=True)])
        faces = merge_boxes(rows, self.spec.min_confidence, self.spec.max_overlap)
        short_sides = (faces[:, 2:4] * self.spec.box_scale).min(axis=1)
        wanted = short_sides >= wanted_px
        small = ~wanted & (short_sides >= self.spec.network_face_px[0] / scales[0])
        scale = image.width / info.width
        candidates, faces = faces, self._look_again(image, scale, faces[wanted])
        if not len(faces):
            faces = self._look_again(image, scale, candidates[small])
        faces = self._fit_boxes(faces)
        if not len(faces):  # the second look cannot judge what lies mostly outside the picture
            faces = self._fit_boxes(candidates[wanted & (candidates[:, 4] >= CUT_OFF_CONFIDENCE)])
            cut_off = [FaceBox(*map(float, face[:4])).is_cut_off(info.width, info.height) for face in faces]
            faces = faces[np.array(cut_off, bool)]
        if warning and not len(faces):
            damage = measure_damage(data, info, stored, warning, lambda file: decode_reduced(file, info, scales[0]))
            if damage.hides(wanted_px * stored.shape[1] / info.stored_size[0]):
                message = f"pixels are missing or wrong where a face may be; the decoder says: {warning}"
                raise Unscorable(info.damage_reason, message)
        return [Detection(FaceBox(*map(float, face[:4])), float(face[4])) for face in faces]

    def _fit_boxes(self, faces: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows whose boxes reach from the hairline to the chin; see `DetectorSpec`."""
        fitted = faces.copy()
        fitted[:, :2] += faces[:, 2:4] * (0.5 + np.array(self.spec.box_shift) - np.array(self.spec.box_scale) / 2)
        fitted[:, 2:4] *= self.spec.box_scale
        return fitted

    def _look_again(self, image: Image.Image, scale: float, faces: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rows of `faces` that are sure, at first or by a second look, most confident first.

        `image` has `scale` times the size that the boxes (x, y, width, height, confidence) are given in.
        """
        unsure = np.flatnonzero(faces[:, 4] < self.spec.sure_confidence)
        if not len(unsure):
            return faces
        side = self.second.layout.side
        looks = [cut_around(image, faces[place, :4] * scale, self.spec.second_look_px, side) for place in unsure]
        found = self.second.find(np.stack([pixels for pixels, _ in looks]), self.spec.second_confidence)
        for place, (_, box), rows in zip(unsure, looks, found, strict=True):
            second = find_same(box, rows, self.spec.second_iou)
            faces[place, 4] = max(faces[place, 4], second) if second else 0.0
        faces = faces[np.argsort(-faces[:, 4], kind="stable")]
        return faces[faces[:, 4] > 0]


def plan_scales(info: ImageInfo, spec: DetectorSpec, min_face_px: float) -> list[float]:
    """Return the levels' scale factors, falling, at most 1.

    The first shows a face of `min_face_px`, or fills one tile, or is as large as is affordable; the last shows a
    face that fills the image.
    """
    smallest_px, largest_px = spec.network_face_px
    short, long = sorted((info.width, info.height))
    one_tile = min(largest_px / short, TILE_PX / long)
    affordable = math.sqrt(spec.max_level_pixels / (short * long))
    scales = [min(1.0, affordable, max(one_tile, smallest_px / min_face_px))]
    while short * scales[-1] > largest_px:
        scales.append(scales[-1] / spec.level_step)
    return scales
