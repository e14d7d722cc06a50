"""DALI's crops against the reference: every container and colour type, random windows, all orientations.

Decoders agree bit for bit, and resizing rounds the same sum: so a crop differs by at most one grey level, only where a
value lies on a half. 16-bit colour PNG may differ by two, since Pillow drops the low byte of a sample and DALI rounds
(see `ingest.reference`). Not covered: a window one pixel wide at the left edge, where libjpeg-turbo's partial decode
upsamples 4:2:0 chroma differently.
"""

import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ingest.dali import FaceCropper
from ingest.dali_cuda import DeviceCropper
from ingest.dali_graph import IMAGE, TURN, WINDOW, build_serving_pipeline
from ingest.orientation import turn_matrix
from ingest.probe import EncodedFace, ImageInfo, probe_image, strip_metadata
from ingest.reasons import Unscorable
from ingest.reference import crop_face
from ingest.spec import PreprocessSpec, Window

ORIENTATION = 0x0112
SPEC = PreprocessSpec()
SHORTEST = 16
WIDTH, HEIGHT = 203, 151  # odd, so that chroma blocks are cut


@cache
def make_pixels() -> NDArray[np.uint8]:
    """Return gradients with noise and one red rectangle with sharp edges (H, W, 3)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    gradients = np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, (x + y) * 255 / (WIDTH + HEIGHT)], axis=-1)
    pixels = (gradients + np.random.default_rng(0).normal(0, 12, gradients.shape)).clip(0, 255).astype(np.uint8)
    pixels[20:40, 25:70] = (250, 20, 30)
    return pixels


def encode(mode: str, kind: str, **options: object) -> bytes:
    """Return the test picture, converted to `mode`, as encoded bytes."""
    picture = Image.fromarray(make_pixels())
    if mode.endswith("A"):
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def encode_16_bit(colour_type: int, channels: int) -> bytes:
    """Return a 16-bit PNG; Pillow writes only grey ones."""
    samples = make_pixels()[:, :, [0, 1, 2, 0][:channels]].astype(np.uint32) * 250
    samples += np.random.default_rng(1).integers(0, 900, samples.shape, dtype=np.uint32)
    rows = b"".join(b"\0" + row.tobytes() for row in samples.astype(">u2"))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def set_adobe_transform(data: bytes, transform: int) -> bytes:
    """Return a JPEG with another colour transform in its Adobe marker."""
    offset = data.index(b"Adobe") + 11
    return data[:offset] + bytes([transform]) + data[offset + 1 :]


CASES = {
    "jpeg 4:4:4": lambda: encode("RGB", "JPEG", subsampling=0, quality=95),
    "jpeg 4:2:2": lambda: encode("RGB", "JPEG", subsampling=1),
    "jpeg 4:2:0": lambda: encode("RGB", "JPEG", subsampling=2),
    "jpeg 4:1:1": lambda: encode("RGB", "JPEG", subsampling="4:1:1"),
    "jpeg progressive": lambda: encode("RGB", "JPEG", progressive=True),
    "jpeg restarts": lambda: encode("RGB", "JPEG", restart_marker_blocks=3),
    "jpeg rgb": lambda: encode("RGB", "JPEG", keep_rgb=True),
    "jpeg grey": lambda: encode("L", "JPEG"),
    "jpeg cmyk": lambda: encode("CMYK", "JPEG"),
    "jpeg ycck": lambda: set_adobe_transform(encode("CMYK", "JPEG"), 2),
    "png": lambda: encode("RGB", "PNG"),
    "png black and white": lambda: encode("1", "PNG"),
    "png grey": lambda: encode("L", "PNG"),
    "png grey alpha": lambda: encode("LA", "PNG"),
    "png alpha": lambda: encode("RGBA", "PNG"),
    "png palette": lambda: encode("P", "PNG"),
    "png palette 4 bits": lambda: encode("P", "PNG", bits=4),
    "png palette alpha": lambda: encode("P", "PNG", transparency=bytes(range(200))),
    "png transparent colour": lambda: encode("RGB", "PNG", transparency=(250, 20, 30)),
    "png 16-bit grey": lambda: encode_16_bit(0, 1),
    "png 16-bit colour": lambda: encode_16_bit(2, 3),
    "png 16-bit alpha": lambda: encode_16_bit(6, 4),
    "webp": lambda: encode("RGB", "WEBP"),
    "webp alpha": lambda: encode("RGBA", "WEBP"),
    "webp lossless": lambda: encode("RGB", "WEBP", lossless=True),
    "webp lossless alpha": lambda: encode("RGBA", "WEBP", lossless=True),
}
CUT_BY_PILLOW = ("png 16-bit colour", "png 16-bit alpha")


@cache
def make_case(name: str) -> tuple[bytes, ImageInfo]:
    """Return a case's bytes and the result of `probe_image`."""
    data = CASES[name]()
    return data, probe_image(data)


@pytest.fixture(scope="module")
def cropper() -> FaceCropper:
    """DALI's cropper."""
    return FaceCropper(SPEC, threads=1, max_batch=8)


def draw_window(data: st.DataObject, info: ImageInfo) -> Window:
    """Return any window inside the image with sides of at least `SHORTEST`."""
    width, height = data.draw(st.integers(SHORTEST, info.width)), data.draw(st.integers(SHORTEST, info.height))
    left, top = data.draw(st.integers(0, info.width - width)), data.draw(st.integers(0, info.height - height))
    return Window(left, top, width, height)


def measure_difference(cropper: FaceCropper, data: bytes, info: ImageInfo, window: Window) -> NDArray[np.int64]:
    """Return |DALI's crop - reference| in grey levels, for each pixel and channel."""
    crop = cropper.crop([EncodedFace(data, info, window)])[0]
    assert not isinstance(crop, Unscorable)
    return np.abs(np.subtract(crop, crop_face(data, window, SPEC), dtype=np.int64))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_crops_differ_by_a_rounding_at_most(cropper: FaceCropper, name: str, data: st.DataObject) -> None:
    """Any window of any kind of picture differs by at most one grey level, in at most one value of twenty."""
    encoded, info = make_case(name)
    difference = measure_difference(cropper, encoded, info, draw_window(data, info))
    if name in CUT_BY_PILLOW:
        assert difference.max() <= 2
    else:
        assert difference.max() <= 1
        assert difference.mean() < 0.05


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_differ_by_a_rounding_at_most(cropper: FaceCropper, kind: str, orientation: int) -> None:
    """Both paths cut the same upright window for every orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    encoded = encode("RGB", kind, exif=exif)
    difference = measure_difference(cropper, encoded, probe_image(encoded), Window(20, 13, 110, 90))
    assert difference.max() <= 1


@pytest.mark.parametrize("antialias", [True, False])
def test_every_path_resizes_as_the_spec_says(*, antialias: bool) -> None:
    """The CPU's cropper, the GPU's and the graph of a server reduce a face with or without antialiasing."""
    spec = PreprocessSpec(size=32, antialias=antialias)
    encoded = encode("RGB", "PNG")
    info, window = probe_image(encoded), Window(20, 13, 110, 90)
    face = EncodedFace(encoded, info, window)
    served = build_serving_pipeline(spec, "cpu", max_batch=1)
    served.build()
    inputs = {
        IMAGE: [np.frombuffer(strip_metadata(encoded, info.media_type), np.uint8)],
        WINDOW: [np.array([window.left, window.top, window.width, window.height], np.int32)],
        TURN: [turn_matrix(info.orientation, spec.size)],
    }
    crops = (
        FaceCropper(spec, 1, 1).crop([face])[0],
        DeviceCropper(spec, 1, 1, "cpu").crop([face])[0][0],
        served.run(**inputs)[0].as_array()[0],
    )
    right, wrong = (
        crop_face(encoded, window, PreprocessSpec(size=32, antialias=on)) for on in (antialias, not antialias)
    )
    assert np.abs(right.astype(int) - wrong).mean() > 2
    for crop in crops:
        assert np.abs(np.subtract(crop, right, dtype=np.int64)).max() <= 1
