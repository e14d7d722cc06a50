"""Photographs to measure with: the public-domain astronaut in frames of noise, as JPEG, with the face's box."""

import io
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from ingest.probe import EncodedFace, Limits, probe_image
from ingest.spec import FaceBox, PreprocessSpec
from scorer.messages import ImageSource, RequestedFace, ScoreRequest
from scorer.payloads.local_file import read_image

PORTRAIT_FACE = (180.0, 70.0, 95.0, 110.0)
SIDES = ((640, 480), (1024, 768), (1600, 1200))


def draw_photograph(rng: np.random.Generator, width: int, height: int) -> tuple[bytes, tuple[float, ...]]:
    """Return a new JPEG of `width` x `height` pixels, and the box of its face."""
    portrait = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    scale = rng.uniform(0.8, 1.0) * height / portrait.height
    left, top = (int(rng.integers(0, limit)) for limit in (width - height + 1, 40))
    canvas = Image.effect_noise((width, height), 12).convert("RGB")
    canvas.paste(portrait.resize((round(portrait.width * scale),) * 2), (left, top))
    encoded = io.BytesIO()
    canvas.save(encoded, "JPEG", quality=90)
    x, y, w, h = (value * scale for value in PORTRAIT_FACE)
    return encoded.getvalue(), (x + left, y + top, w, h)


def make_photographs(folder: Path, count: int) -> list[ScoreRequest]:
    """Write `count` different JPEGs of 640x480 to 1600x1200; return requests with boxes."""
    rng = np.random.default_rng(1)
    requests = []
    for number in range(count):
        data, box = draw_photograph(rng, *SIDES[number % len(SIDES)])
        path = folder / f"{number:05d}.jpg"
        path.write_bytes(data)
        requests.append(
            ScoreRequest(
                request_id=path.name,
                content_id=path.name,
                image=ImageSource(uri=path.as_uri()),
                faces=(RequestedFace(face_id="0", box=box),),
            )
        )
    return requests


def encode_faces(requests: list[ScoreRequest], spec: PreprocessSpec) -> list[EncodedFace]:
    """Read, probe and window each request's one face."""
    faces = []
    for request in requests:
        data = request.image.data or read_image(str(request.image.uri), Limits().max_bytes)
        faces.append(encode_face(data, (request.faces or ())[0].box, spec))
    return faces


def encode_face(data: bytes, box: tuple[float, ...], spec: PreprocessSpec) -> EncodedFace:
    """Probe and window one face.

    Raises:
        ValueError: the box misses the image.
    """
    face = EncodedFace.around(data, probe_image(data), FaceBox(*box), spec)
    if face is None:
        message = f"the box {box} misses its image"
        raise ValueError(message)
    return face
