"""Cut faces from photographs: detect them, crop them as the scorer does, find landmarks, read EXIF tags."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.dali import FaceCropper
from ingest.decode import decode_sandboxed
from ingest.decode_batches import needs_sandbox
from ingest.detect import FaceDetector
from ingest.exif import ExifReading
from ingest.image_metadata import read_image_metadata
from ingest.orientation import turn_upright
from ingest.probe import EncodedFace, ImageInfo, probe_image, strip_metadata
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, PreprocessSpec, Window
from training.data.exif import read_file_exif
from training.data.landmarks import Landmarker
from training.data.near_duplicates import Hashes, hash_image, hash_rotations
from training.data.photos import Photo
from training.data.shards import WIDE_SIZE

CROPS_PER_BATCH = 16
HASHED_PX = 256  # a JPEG is decoded at the smallest scale that has at least this size


@dataclass(frozen=True, slots=True, eq=False)
class ReadPhoto:
    """The properties of a photograph, without its bytes; `jpeg_quality` is 0 if it is no JPEG."""

    photo: Photo
    byte_count: int
    exif: ExifReading
    hashed: Hashes
    jpeg_quality: int


@dataclass(frozen=True, slots=True, eq=False)
class FoundFace:
    """A face located in its encoded photograph."""

    origin: ReadPhoto
    encoded: EncodedFace
    box: FaceBox


@dataclass(frozen=True, slots=True, eq=False)
class CutFace:
    """One face as a shard stores it."""

    origin: ReadPhoto
    short_side: float
    crop: NDArray[np.uint8]
    wide: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    hashes: Hashes


@dataclass(slots=True)
class FaceCutter:
    """Finds and cuts the faces of photographs; counts what it drops and why.

    Attributes:
        detector: the detector that the bundle will contain.
        landmarker: finds the landmarks.
        spec: how a face is cut.
        min_face_px: detected faces whose visible part has a shorter side are dropped, as in serving; faces whose boxes
            the input gives are kept.
        threads: for decoding.
        dropped: number of photographs and faces left out, by source and reason.
        refused: number of photographs with an implausible tag or with damaged metadata, by source and tag.
    """

    detector: FaceDetector
    landmarker: Landmarker
    spec: PreprocessSpec
    min_face_px: float
    threads: int
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    _croppers: list[FaceCropper] = field(default_factory=list)

    def find(self, photo: Photo) -> list[FoundFace]:
        """Return the usable faces of a photograph; a photograph without one is counted in `dropped`."""
        try:
            data = photo.read()
            info = probe_image(data)
            boxes = photo.boxes
            if boxes is None:
                found = [detection.box for detection in self.detector.detect(data, info)]
                sides = [box.visible_short_side(info.width, info.height) for box in found]
                boxes = tuple(box for box, side in zip(found, sides, strict=True) if side >= self.min_face_px)
            whole = self._drop_cut_off(photo, info, boxes)
            windows = [(EncodedFace.around(data, info, box, self.spec), box) for box in whole]
            faces = [(face, box) for face, box in windows if face is not None]
            if not faces:
                self.dropped[photo.source, "photo_without_large_face"] += 1
                return []
            hashed = hash_photo(data, info)
        except Unscorable as failure:
            self.dropped[photo.source, f"photo_{failure.reason}"] += 1
            return []
        except OSError:
            self.dropped[photo.source, f"photo_{Reason.UNREADABLE}"] += 1
            return []
        quality = read_image_metadata(data, info).jpeg_quality or 0
        origin = ReadPhoto(photo, len(data), self._read_exif(photo, data), hashed, quality)
        return [FoundFace(origin, face, box) for face, box in faces]

    def _drop_cut_off(self, photo: Photo, info: ImageInfo, boxes: Sequence[FaceBox]) -> list[FaceBox]:
        """Return the faces that serving would score: of the others there is more border in the crop than face."""
        whole = [box for box in boxes if not box.is_cut_off(info.width, info.height)]
        if len(whole) < len(boxes):
            self.dropped[photo.source, Reason.FACE_CUT_OFF.value] += len(boxes) - len(whole)
        return whole

    def _read_exif(self, photo: Photo, data: bytes) -> ExifReading:
        exif = photo.read_exif() if photo.read_exif else read_file_exif(data)
        for tag in exif.implausible if exif else ("metadata",):
            self.refused[photo.source, tag] += 1
        return exif or ExifReading()

    def cut(self, faces: Sequence[FoundFace]) -> list[CutFace]:
        """Return the cut faces of what `find` found; the faces of one photograph must be adjacent."""
        if not self._croppers:
            sizes = (self.spec.size, WIDE_SIZE)
            self._croppers = [
                FaceCropper(replace(self.spec, size=size), self.threads, CROPS_PER_BATCH) for size in sizes
            ]
        crops, wides = (cropper.crop([face.encoded for face in faces]) for cropper in self._croppers)
        cut = []
        for face, crop, wide in zip(faces, crops, wides, strict=True):
            if isinstance(crop, Unscorable) or isinstance(wide, Unscorable):
                self.dropped[face.origin.photo.source, f"face_{Reason.UNDECODABLE}"] += 1
                continue
            points = self.landmarker.find(wide, box_in_crop(face.box, face.encoded.window, WIDE_SIZE))
            hashes = hash_rotations(Image.fromarray(crop))
            short_side = face.box.visible_short_side(face.encoded.info.width, face.encoded.info.height)
            cut.append(CutFace(face.origin, short_side, crop, wide, points, hashes))
        return cut


def box_in_crop(box: FaceBox, window: Window, size: int) -> tuple[float, float, float, float]:
    """Return `box` as (x, y, width, height) in pixels of the crop that `window` becomes, of `size` pixels a side."""
    across, down = size / window.width, size / window.height
    return (box.x - window.left) * across, (box.y - window.top) * down, box.width * across, box.height * down


def hash_photo(data: bytes, info: ImageInfo) -> Hashes:
    """Return the perceptual hash of an encoded photograph, turned upright.

    Raises:
        Unscorable: it cannot be decoded.
    """
    try:
        if needs_sandbox(info):
            colours = decode_sandboxed(strip_metadata(data, info.media_type), info)
            stored = np.asarray(Image.fromarray(colours).convert("L"))
        else:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
                image.draft("L", (HASHED_PX, HASHED_PX))
                stored = np.asarray(image.convert("L"))
    except Unscorable:
        raise
    except Exception as error:  # Pillow's parsers raise SyntaxError, struct.error and others on damaged data
        raise Unscorable(Reason.UNDECODABLE, f"Pillow cannot decode it: {type(error).__name__}") from error
    return hash_image(Image.fromarray(turn_upright(stored[:, :, None], info.orientation)[:, :, 0]))
