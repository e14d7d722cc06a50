"""Any bytes give pixels or `Unscorable`, no other exception, and metadata bombs cost nothing."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ingest.dali import FaceCropper
from ingest.probe import EncodedFace, Limits, probe_image
from ingest.reasons import Unscorable
from ingest.reference import decode_upright
from ingest.spec import PreprocessSpec, Window

CPU_S = 2.0
LIMITS = Limits(max_pixels=1_000_000)  # so that no change of a header makes the suite slow
PICTURE = Image.fromarray(np.random.default_rng(4).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60))


def encode(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """Return the test picture as encoded bytes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    PICTURE.convert(mode).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


SEEDS = [
    encode("JPEG"),
    encode("JPEG", progressive=True),
    encode("JPEG", restart_marker_blocks=2),
    encode("JPEG", "CMYK"),
    encode("JPEG", "L"),
    encode("PNG"),
    encode("PNG", "P"),
    encode("WEBP"),
    encode("WEBP", "RGBA"),
    encode("WEBP", lossless=True),
]


@st.composite
def mutate(draw: st.DrawFn) -> bytes:
    """Return a valid picture with bytes changed, cut out, doubled, or spliced with another picture."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["flip", "set", "cut", "double", "splice", "truncate"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                data[at : at + 1] = draw(st.sampled_from([b"\0", b"\xff", b"\xff\xd9", b"\xff\xda", b"\x7f"]))
            case "cut":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "splice":
                data[at:] = draw(st.sampled_from(SEEDS))[at:]
            case "truncate":
                del data[at:]
            case _:
                pass
    return bytes(data)


@pytest.fixture(scope="module")
def cropper() -> FaceCropper:
    """A cropper that all examples share, so that each also meets the state after the others."""
    return FaceCropper(PreprocessSpec(size=64), threads=1, max_batch=4)


def crop_whole(cropper: FaceCropper, data: bytes) -> NDArray[np.uint8] | Unscorable:
    """Return the crop of the whole picture or its refusal; any other exception fails the test."""
    try:
        info = probe_image(data, LIMITS)
    except Unscorable as refusal:
        return refusal
    return cropper.crop([EncodedFace(data, info, Window(0, 0, info.width, info.height))])[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=mutate())
def test_a_mutated_picture_gives_pixels_or_a_reason(cropper: FaceCropper, data: bytes) -> None:
    """Flipped, cut, doubled and spliced pictures never raise anything but `Unscorable`."""
    crop = crop_whole(cropper, data)
    if not isinstance(crop, Unscorable):
        assert crop.shape == (64, 64, 3)
        assert crop.dtype == np.uint8


@given(data=mutate())
def test_the_reference_gives_pixels_or_a_reason(data: bytes) -> None:
    """The reference decoder raises none of Pillow's many exceptions."""
    try:
        assert decode_upright(data).shape[2] == 3
    except Unscorable:
        return


@given(data=st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: SEEDS[0][:300] + tail))
def test_noise_gives_a_reason(data: bytes) -> None:
    """Random bytes, with or without the beginning of a picture, are refused."""
    with pytest.raises(Unscorable):
        probe_image(data)


def test_text_that_inflates_a_thousandfold_is_never_inflated(cropper: FaceCropper) -> None:
    """Two gigabytes of compressed text in a PNG change neither its pixels nor its cost."""
    plain = encode("PNG")
    bomb = b"comment\0\0" + zlib.compress(bytes(8 * 2**20), 9)
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    loaded = plain[:33] + chunk * 250 + plain[33:]
    before = time.process_time()
    crop = crop_whole(cropper, loaded)
    assert time.process_time() - before < CPU_S
    assert not isinstance(crop, Unscorable)
    assert crop.tolist() == np.asarray(crop_whole(cropper, plain)).tolist()
