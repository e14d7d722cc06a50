"""Cut faces from generated pictures, for evaluation only, exactly as from photographs; the crops are kept on disk."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ingest.dali import FaceCropper
from ingest.detect import FaceDetector
from ingest.image_metadata import read_image_metadata
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.spec import PreprocessSpec, Window
from scorer.decide import Policy
from training.data.shards import WIDE_SIZE, Images

PICTURES_PER_BATCH = 16
Part = Literal["face", "image"]


@dataclass(frozen=True, slots=True, eq=False)
class CutPictures:
    """The faces of one folder.

    Attributes:
        crops: [N, S, S, 3] uint8.
        wide: [N, 320, 320, 3] uint8, the same windows; empty for whole pictures.
        short_sides: [N] of the visible parts of the boxes in pixels; of whole pictures, their own.
        jpeg_qualities: [N], 1..100; 0 if the picture is no JPEG.
        pictures: their number.
        dropped: number of pictures left out, by reason.
    """

    crops: Images
    wide: Images
    short_sides: NDArray[np.float64]
    jpeg_qualities: NDArray[np.int16]
    pictures: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class LocatedPart:
    """The part of a picture to cut, the short side of the face in pixels, and the JPEG quality or 0."""

    encoded: EncodedFace
    short_side: float
    jpeg_quality: int


@dataclass(frozen=True, slots=True)
class PictureCutter:
    """Cuts one crop from each picture into files of `scratch`.

    Attributes:
        detector: the bundle's.
        spec: how a face is cut.
        part: the most confident "face", or the whole "image" stretched to a square, as in the authors' release.
        threads: for decoding.
        scratch: folder of the files; it must exist as long as the crops are used.
    """

    detector: FaceDetector
    spec: PreprocessSpec
    part: Part
    threads: int
    scratch: Path

    def locate(self, path: Path) -> LocatedPart | None:
        """Return the part of a picture to cut, or None if it has no face that the default policy scores.

        Raises:
            Unscorable: the picture cannot be read.
        """
        data = path.read_bytes()
        info = probe_image(data)
        quality = read_image_metadata(data, info).jpeg_quality or 0
        if self.part == "image":
            whole = EncodedFace(data, info, Window(0, 0, info.width, info.height))
            return LocatedPart(whole, min(info.width, info.height), quality)
        for box in (face.box for face in self.detector.detect(data, info)):
            side = box.visible_short_side(info.width, info.height)
            if not box.is_cut_off(info.width, info.height) and side >= Policy().min_face_px:
                face = EncodedFace.around(data, info, box, self.spec)
                return LocatedPart(face, side, quality) if face else None
        return None

    def cut(self, name: str, paths: Sequence[Path], advance: Callable[[], None]) -> CutPictures:
        """Return the crops of one or more pictures.

        Args:
            name: of the files that contain the crops.
            paths: of the pictures.
            advance: called after each picture.
        """
        sizes = (self.spec.size, WIDE_SIZE) if self.part == "face" else (self.spec.size,)
        files = [
            np.lib.format.open_memmap(self.scratch / f"{name}-{size}.npy", "w+", np.uint8, (len(paths), size, size, 3))
            for size in sizes
        ]
        croppers = [FaceCropper(replace(self.spec, size=size), self.threads, PICTURES_PER_BATCH) for size in sizes]
        dropped: Counter[str] = Counter()
        facts: list[tuple[float, int]] = []
        for start in range(0, len(paths), PICTURES_PER_BATCH):
            kept = list(self._locate_all(paths[start : start + PICTURES_PER_BATCH], dropped, advance))
            cut = zip(*(cropper.crop([part.encoded for part in kept]) for cropper in croppers), strict=True)
            for part, pictures in zip(kept, cut, strict=True):
                failure = next((crop for crop in pictures if isinstance(crop, Unscorable)), None)
                if failure:
                    dropped[str(failure.reason)] += 1
                    continue
                for file, crop in zip(files, pictures, strict=True):
                    file[len(facts)] = crop
                facts.append((part.short_side, part.jpeg_quality))
        sides, qualities = np.array(facts, dtype=np.float64).reshape(-1, 2).T
        crops = files[0][: len(facts)]
        wide = files[-1][: len(facts) if self.part == "face" else 0]
        return CutPictures(crops, wide, sides, qualities.astype(np.int16), len(paths), dict(dropped))

    def _locate_all(
        self, paths: Iterable[Path], dropped: Counter[str], advance: Callable[[], None]
    ) -> Iterable[LocatedPart]:
        for path in paths:
            try:
                face = self.locate(path)
            except Unscorable as failure:
                dropped[str(failure.reason)] += 1
            else:
                if face is None:
                    dropped["no_face"] += 1
                else:
                    yield face
            advance()


def draw_pictures(folder: Path, most: int, seed: int = 2024) -> list[Path]:
    """Return the files in `folder` and its subfolders in a stable order; a random `most` of them if there are more.

    Raises:
        FileNotFoundError: there is no file.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        message = f"no picture was found under {folder}: it must contain one or more"
        raise FileNotFoundError(message)
    return [files[index] for index in np.sort(np.random.default_rng(seed).permutation(len(files))[:most])]


def list_generators(folder: Path) -> dict[str, Path]:
    """Return the folder of each generator, by name.

    Raises:
        FileNotFoundError: there is none.
    """
    found = {path.name: path for path in sorted(folder.glob("*/"))}
    if not found:
        message = f"no folder was found in {folder}: it must contain one folder of pictures for each generator"
        raise FileNotFoundError(message)
    return found
