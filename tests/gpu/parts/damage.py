"""Damaged files on the GPU's decoder: how many would get a score that the CPU refuses, and how many do after the check.

nvJPEG fills damaged areas without a warning. A JPEG goes to it only if libjpeg has read all of it without one
(`scorer.engines.precut`). The files are damaged photographs, and those of tests/hostile whose headers are admitted.
"""

import io
from typing import Any

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

KINDS: tuple[dict[str, Any], ...] = ({}, {"progressive": True}, {"restart_marker_rows": 2})


def damage(photograph: bytes, rng: np.random.Generator) -> bytes:
    """Return a JPEG of one of `KINDS`, cut short or with eight wrong bytes in its last three quarters."""
    encoded = io.BytesIO()
    Image.open(io.BytesIO(photograph)).save(encoded, "JPEG", quality=90, **KINDS[rng.integers(len(KINDS))])
    data = encoded.getvalue()
    if rng.random() < 0.5:
        return data[: int(len(data) * rng.uniform(0.3, 0.9))]
    changed = np.frombuffer(data, np.uint8).copy()
    changed[rng.integers(len(data) // 4, len(data), 8)] ^= 0xFF
    return changed.tobytes()


def admit(files: list[bytes]) -> list[EncodedFace]:
    """Return those whose headers are admitted, each as one face."""
    faces = []
    for data in files:
        try:
            info = probe_image(data)
        except Unscorable:
            continue
        faces.append(EncodedFace(data, info, Window(0, 0, info.width, info.height)))
    return faces


def is_sound(face: EncodedFace) -> bool:
    """Return whether the detector's decode reports nothing."""
    try:
        warning = decode_reduced(strip_metadata(face.data, face.info.media_type), face.info, 1 / 8)[1]
    except Unscorable:
        return False
    return warning == "" or face.info.media_type != "image/jpeg"


def measure(part: Part) -> None:
    """State the counts."""
    rng, spec = np.random.default_rng(9), PreprocessSpec()
    photographs = [draw_photograph(rng, 640, 480)[0] for _ in range(part.choose(240, 24))]
    files = [damage(data, rng) for data in photographs]
    with part.attempt("files of tests/hostile"):
        from tests.hostile.test_neighbours import BAD  # noqa: PLC0415 - needs pytest
        from tests.hostile.test_refusals import CASES  # noqa: PLC0415 - as above

        picture = Image.open(io.BytesIO(photographs[0]))
        files += [make() for _, make in CASES.values()] + [make(picture) for make in BAD.values()]
    faces = admit(files)
    refused = np.array([isinstance(crop, Unscorable) for crop in FaceCropper(spec, 2, 16).crop(faces)])
    _, failures = DeviceCropper(spec, 2, 16, part.device).crop(faces)
    scored, sound = ~np.isin(np.arange(len(faces)), list(failures)), np.array([is_sound(face) for face in faces])
    part.record("damaged files with admitted headers", len(faces), "files")
    part.record("refused by the CPU", refused.sum(), "files")
    part.record("refused by the CPU, scored by the GPU's decoder alone", (refused & scored).sum(), "files")
    part.record("refused by the CPU, scored after the check", (refused & scored & sound).sum(), "files")
    part.record("refused on the GPU alone", (~refused & ~scored).sum(), "files", at_most=0)
