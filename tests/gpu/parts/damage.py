"""Damaged files on the GPU's decoder: how many get a score that the CPU refuses, by it alone and after the check.

nvJPEG fills damaged areas without a warning. A JPEG goes to it only if libjpeg has read all of it without one
(`scorer.engines.precut`). The files are damaged photographs, and those of tests/hostile whose headers are admitted.
"""

import io
from contextlib import suppress

import numpy as np
from part import Part
from photographs import draw_photograph
from PIL import Image

from ingest.dali import FaceCropper
from ingest.dali_cuda import DeviceCropper
from ingest.decode import decode_reduced
from ingest.probe import EncodedFace, probe_image, strip_metadata
from ingest.reasons import Unscorable
from ingest.spec import PreprocessSpec, Window


def damage(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """Return a JPEG, also progressive or with restart markers, cut short or with eight wrong bytes."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", progressive=rng.random() < 0.3, restart_marker_rows=int(rng.integers(0, 3)))
    data = np.frombuffer(encoded.getvalue(), np.uint8).copy()
    if rng.random() < 0.5:
        return data[: int(len(data) * rng.uniform(0.3, 0.9))].tobytes()
    data[rng.integers(len(data) // 4, len(data), 8)] ^= 0xFF
    return data.tobytes()


def is_sound(face: EncodedFace) -> bool:
    """Return whether the detector's decode reports nothing."""
    with suppress(Unscorable):
        bare = strip_metadata(face.data, face.info.media_type)
        return decode_reduced(bare, face.info, 1 / 8)[1] == "" or face.info.media_type != "image/jpeg"
    return False


def measure(part: Part) -> None:
    """State the counts."""
    rng, spec = np.random.default_rng(9), PreprocessSpec()
    picture = Image.open(io.BytesIO(draw_photograph(rng, 640, 480)[0]))
    files, faces = [damage(picture, rng) for _ in range(part.choose(240, 24))], []
    with part.attempt("files of tests/hostile"):
        from tests.hostile.test_neighbours import BAD  # noqa: PLC0415 - needs pytest
        from tests.hostile.test_refusals import CASES  # noqa: PLC0415 - as above

        files += [make() for _, make in CASES.values()] + [make(picture) for make in BAD.values()]
    for data in files:
        with suppress(Unscorable):
            info = probe_image(data)
            faces.append(EncodedFace(data, info, Window(0, 0, info.width, info.height)))
    refused = np.array([isinstance(crop, Unscorable) for crop in FaceCropper(spec, 2, 16).crop(faces)])
    _, failures = DeviceCropper(spec, 2, 16, part.device).crop(faces)
    scored, sound = ~np.isin(np.arange(len(faces)), list(failures)), np.array([is_sound(face) for face in faces])
    part.record("admitted by their headers", len(faces), "files")
    part.record("refused by the CPU", refused.sum(), "files")
    part.record("refused by the CPU, scored by the GPU's decoder alone", (refused & scored).sum(), "files")
    part.record("refused by the CPU, scored after the check", (refused & scored & sound).sum(), "files")
    part.record("refused on the GPU alone", (~refused & ~scored).sum(), "files", at_most=0)
