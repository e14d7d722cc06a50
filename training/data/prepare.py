"""Photographs to face sets: detect, cut as serving cuts, place landmarks, read tags."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ingest.dali import FaceCropper
from ingest.detect import FaceDetector
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, PreprocessSpec, Window
from training.data.landmarks import LandmarkNet, find_landmarks
from training.data.photos import Photo
from training.data.shards import WIDE_SIZE, FaceSet

Crop = NDArray[np.uint8]


@dataclass(slots=True)
class FaceCutter:
    """Finds and cuts the faces of photographs; counts what it drops and why.

    Attributes:
        detector: the detector that the bundle will carry.
        net: landmarks.
        spec: how a face is cut.
        min_face_px: faces with a shorter side are dropped.
        threads: for decoding.
        dropped: photographs and faces left out, by reason.
    """

    detector: FaceDetector
    net: LandmarkNet
    spec: PreprocessSpec
    min_face_px: float
    threads: int
    dropped: Counter[str] = field(default_factory=Counter)

    def locate(self, photo: Photo) -> list[tuple[EncodedFace, FaceBox]]:
        """Return the photograph's faces of at least `min_face_px`, each with its box."""
        data = photo.path.read_bytes()
        info = probe_image(data)
        boxes = [detection.box for detection in self.detector.detect(data, info)]
        large = [box for box in boxes if box.short_side >= self.min_face_px]
        if not large:
            self.dropped["photo_without_large_face"] += 1
        faces = []
        for box in large:
            face = EncodedFace.around(data, info, box, self.spec)
            if face is not None:
                faces.append((face, box))
        return faces

    def cut(self, photos: Iterable[Photo]) -> FaceSet | None:
        """Return the faces of `photos` as one set, or None when there are none."""
        cutters = [FaceCropper(replace(self.spec, size=size), self.threads, 16) for size in (self.spec.size, WIDE_SIZE)]
        rows = []
        for photo in photos:
            try:
                faces = self.locate(photo)
            except Unscorable as failure:
                self.dropped[f"photo_{failure.reason}"] += 1
                continue
            encoded = [face for face, _ in faces]
            crops, wides = (cutter.crop(encoded) for cutter in cutters)
            for (face, box), crop, wide in zip(faces, crops, wides, strict=True):
                if isinstance(crop, Unscorable) or isinstance(wide, Unscorable):
                    self.dropped[f"face_{Reason.UNDECODABLE}"] += 1
                    continue
                points = find_landmarks(self.net, wide, box_in_crop(box, face.window, WIDE_SIZE))
                rows.append((crop, wide, points, photo, box.short_side))
        if not rows:
            return None
        return FaceSet(
            crops=np.stack([row[0] for row in rows]),
            wide=np.stack([row[1] for row in rows]),
            landmarks=np.stack([row[2] for row in rows]),
            tags=np.array([row[3].tags.as_floats() for row in rows]),
            photos=np.array([row[3].path.name for row in rows]),
            sources=np.array([row[3].source for row in rows]),
            cameras=np.array([row[3].camera for row in rows]),
            short_sides=np.array([row[4] for row in rows]),
        )


def box_in_crop(box: FaceBox, window: Window, size: int) -> tuple[float, float, float, float]:
    """Return `box` (x, y, width, height) in pixels of the crop of `window` stretched to `size`."""
    across, down = size / window.width, size / window.height
    return (box.x - window.left) * across, (box.y - window.top) * down, box.width * across, box.height * down


def prepare_sources(photos: list[Photo], cutter: FaceCutter, run: Path, console: Console) -> None:
    """Write one face set a source into `run/faces/<role>/`; a source whose file exists is skipped."""
    sources = sorted({(photo.role, photo.source) for photo in photos})
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as progress:
        bar = progress.add_task("preparing", total=len(photos))
        for role, source in sources:
            path = run / "faces" / role / f"{source}.npz"
            mine = [photo for photo in photos if photo.source == source]
            faces = None if path.exists() else cutter.cut(mine)
            if faces is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                faces.save(path)
                console.print(f"{role} {source}: {len(mine)} photographs, {len(faces)} faces")
            progress.advance(bar, len(mine))
