"""Pictures for evaluation only, found and cut exactly as photographs are; they wait on disk, not in memory."""

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
    """Crops [N, S, S, 3] of one folder, how many pictures were looked at, and what was left out, by reason."""

    crops: Images
    pictures: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class PictureCutter:
    """Cuts one crop a picture into files of `scratch`.

    Attributes:
        detector: the bundle's.
        spec: how a face is cut.
        part: the most confident "face", or the whole "image" stretched to a square, as the authors' release takes it.
        threads: for decoding.
        scratch: a folder that outlives the crops.
    """

    detector: FaceDetector
    spec: PreprocessSpec
    part: Part
    threads: int
    scratch: Path

    def locate(self, path: Path) -> EncodedFace | None:
        """Return what to cut of a picture, or None when no face is found that the default policy scores.

        Raises:
            Unscorable: the picture cannot be read.
        """
        data = path.read_bytes()
        info = probe_image(data)
        if self.part == "image":
            return EncodedFace(data, info, Window(0, 0, info.width, info.height))
        found = [face.box for face in self.detector.detect(data, info)]
        whole = [box for box in found if not box.is_cut_off(info.width, info.height)]
        scored = [box for box in whole if box.short_side >= Policy().min_face_px]
        return EncodedFace.around(data, info, scored[0], self.spec) if scored else None

    def cut(self, name: str, paths: Sequence[Path], advance: Callable[[], None]) -> CutPictures:
        """Return the crops of at least one picture.

        Args:
            name: of the file of crops.
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
    """Return the files in `folder` and all folders below, in a stable order; of more than `most`, as many at random.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        message = f"no picture was found under {folder}: it must hold one or more"
        raise FileNotFoundError(message)
    return [files[index] for index in np.sort(np.random.default_rng(seed).permutation(len(files))[:most])]


def list_generators(folder: Path) -> dict[str, Path]:
    """Return the folder of each generator.

    Raises:
        FileNotFoundError: there is none.
    """
    found = {path.name: path for path in sorted(folder.glob("*/"))}
    if not found:
        message = f"no folder was found in {folder}: it must hold one folder of pictures a generator"
        raise FileNotFoundError(message)
    return found
