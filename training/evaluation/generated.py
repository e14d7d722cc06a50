"""Cut faces from generated pictures, for evaluation only, exactly as from photographs; the crops are kept on disk."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ingest.dali import FaceCropper
from ingest.detect import FaceDetector
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.spec import PreprocessSpec, Window
from scorer.decide import Policy
from training.data.shards import Images

PICTURES_PER_BATCH = 16
Part = Literal["face", "image"]


@dataclass(frozen=True, slots=True, eq=False)
class CutPictures:
    """The crops [N, S, S, 3] of one folder, the number of its pictures, and the number left out, by reason."""

    crops: Images
    pictures: int
    dropped: dict[str, int]


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

    def locate(self, path: Path) -> EncodedFace | None:
        """Return the part of a picture to cut, or None if it has no face that the default policy scores.

        Raises:
            Unscorable: the picture cannot be read.
        """
        data = path.read_bytes()
        info = probe_image(data)
        if self.part == "image":
            return EncodedFace(data, info, Window(0, 0, info.width, info.height))
        found = [face.box for face in self.detector.detect(data, info)]
        whole = [box for box in found if not box.is_cut_off(info.width, info.height)]
        scored = [box for box in whole if box.visible_short_side(info.width, info.height) >= Policy().min_face_px]
        return EncodedFace.around(data, info, scored[0], self.spec) if scored else None

    def cut(self, name: str, paths: Sequence[Path], advance: Callable[[], None]) -> CutPictures:
        """Return the crops of one or more pictures.

        Args:
            name: of the file that contains the crops.
            paths: of the pictures.
            advance: called after each picture.
        """
        crops = np.lib.format.open_memmap(
            self.scratch / f"{name}.npy", "w+", np.uint8, (len(paths), self.spec.size, self.spec.size, 3)
        )
        cropper = FaceCropper(self.spec, self.threads, PICTURES_PER_BATCH)
        dropped: Counter[str] = Counter()
        count = 0
        for start in range(0, len(paths), PICTURES_PER_BATCH):
            faces = list(self._locate_all(paths[start : start + PICTURES_PER_BATCH], dropped, advance))
            for crop in cropper.crop(faces):
                if isinstance(crop, Unscorable):
                    dropped[str(crop.reason)] += 1
                else:
                    crops[count] = crop
                    count += 1
        return CutPictures(crops[:count], len(paths), dict(dropped))

    def _locate_all(
        self, paths: Iterable[Path], dropped: Counter[str], advance: Callable[[], None]
    ) -> Iterable[EncodedFace]:
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
