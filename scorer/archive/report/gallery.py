"""Small pictures of faces for a report: read again from the archive, cut, and encoded for embedding."""

import base64
import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import BaseModel

from ingest.probe import Limits, probe_image
from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import FaceBox, PreprocessSpec, crop_window
from scorer.archive.report.figures import Face

SIDE_PX = 144
QUALITY = 80
# A report does not show images that need gigabytes to decode.
LIMITS = Limits(max_pixels=60_000_000)
_CUT = PreprocessSpec()  # the same margin around a face as for the network

# Returns the bytes of the face's image, or None if they can no longer be read.
FaceImageReader = Callable[[Face], bytes | None]
Absence = Literal["gone", "changed", "undecodable"]


class Picture(BaseModel):
    """A face as a JPEG in a data URI, or the reason why there is none."""

    face: Face
    data_uri: str | None
    absence: Absence | None


def cut_pictures(faces: Iterable[Face], read_face_image: FaceImageReader) -> list[Picture]:
    """Return a picture of each face, in order; a face that cannot be shown has a reason instead."""
    with closing(Sandbox(Path(), None, None, 1)) as sandbox:
        return [_cut_picture(face, read_face_image, sandbox) for face in faces]


def _cut_picture(face: Face, read_face_image: FaceImageReader, sandbox: Sandbox) -> Picture:
    data = read_face_image(face)
    if data is None:
        return Picture(face=face, data_uri=None, absence="gone")
    # Also a safeguard: a run's folder from a stranger can show only files whose digest the stranger knows.
    if hashlib.sha256(data).hexdigest() != face.sha256:
        return Picture(face=face, data_uri=None, absence="changed")
    try:
        jpeg = cut_jpeg(data, FaceBox(face.face_x, face.face_y, face.face_width, face.face_height), sandbox)
    except (Unscorable, ValueError):  # ValueError: the box is not valid
        return Picture(face=face, data_uri=None, absence="undecodable")
    return Picture(face=face, data_uri=f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}", absence=None)


def cut_jpeg(data: bytes, box: FaceBox, sandbox: Sandbox, side_px: int = SIDE_PX) -> bytes:
    """Return the face in `box` (upright pixels) with its margin as a JPEG of at most `side_px`, without metadata.

    Raises:
        Unscorable: the image is refused, or cannot be decoded.
        ValueError: the box is outside the image.
    """
    info = probe_image(data, LIMITS)
    window = crop_window(box, info.width, info.height, _CUT)
    if window is None:
        message = f"box {box.as_tuple()} is outside the {info.width}x{info.height} image"
        raise ValueError(message)
    buffer = io.BytesIO()
    Image.fromarray(sandbox.show(data, info, window, side_px)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
