"""The CPU's cropper: order, one decode for each image, orientation, and damage that affects no other image."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ingest.dali import FaceCropper
from ingest.decode_batches import split_batches
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.reference import decode_upright
from ingest.spec import PreprocessSpec, Window

ORIENTATION = 0x0112
MAX_BATCH = 4


def encode(pixels: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    """Return `pixels` as encoded bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_pixels(seed: int, width: int = 120, height: int = 90) -> NDArray[np.uint8]:
    """Return reproducible smooth noise (H, W, 3), which JPEG preserves in few bytes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def damage(data: bytes) -> bytes:
    """Return `data` with the last third of its compressed pixels overwritten, except for its end."""
    start = len(data) * 2 // 3
    return data[:start] + b"\xa5\x5a" * ((len(data) - 20 - start) // 2) + data[-20:]


def make_face(data: bytes, window: Window | None = None) -> EncodedFace:
    """Return a face in `data`, by default the whole picture."""
    info = probe_image(data)
    return EncodedFace(data, info, window or Window(0, 0, info.width, info.height))


def crop_good(cropper: FaceCropper, *faces: EncodedFace) -> NDArray[np.uint8]:
    """Return the crops (N, size, size, 3) of faces, none of which is refused."""
    crops = cropper.crop(faces)
    assert not [crop for crop in crops if isinstance(crop, Unscorable)]
    return np.array(crops)


GOOD = [
    make_face(encode(make_pixels(1), "JPEG"), Window(10, 5, 60, 60)),
    make_face(encode(make_pixels(2), "PNG"), Window(0, 0, 90, 90)),
    make_face(encode(make_pixels(3), "WEBP"), Window(31, 11, 41, 59)),
    make_face(encode(make_pixels(4), "JPEG", progressive=True)),
    make_face(encode(make_pixels(1), "JPEG"), Window(50, 20, 70, 70)),
]
BROKEN = [
    make_face(damage(encode(make_pixels(5), "JPEG"))),
    make_face(damage(encode(make_pixels(6), "WEBP", lossless=True))),
    make_face(damage(encode(make_pixels(7), "JPEG", progressive=True))),
]


@pytest.fixture(scope="module")
def cropper() -> FaceCropper:
    """A cropper that all tests share, so that each also meets the state after the others."""
    return FaceCropper(PreprocessSpec(), threads=2, max_batch=MAX_BATCH)


@pytest.fixture(scope="module")
def alone(cropper: FaceCropper) -> list[NDArray[np.uint8]]:
    """Each good face, cropped in its own call."""
    return [crop_good(cropper, face)[0] for face in GOOD]


# The cropper is shared on purpose, see its fixture.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(st.integers(0, len(GOOD) - 1) | st.integers(-len(BROKEN), -1), max_size=3 * MAX_BATCH))
def test_a_broken_image_never_changes_its_batch(
    cropper: FaceCropper, alone: list[NDArray[np.uint8]], batch: list[int]
) -> None:
    """In any mixture and order, good faces are bit-identical to those cropped alone, and broken ones have a reason."""
    crops = cropper.crop([GOOD[i] if i >= 0 else BROKEN[i] for i in batch])
    assert len(crops) == len(batch)
    for index, crop in zip(batch, crops, strict=True):
        if isinstance(crop, Unscorable):
            assert index < 0
            assert crop.reason is Reason.UNDECODABLE
        else:
            assert index >= 0
            assert np.array_equal(crop, alone[index])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_changes_no_grey_level(cropper: FaceCropper, kind: str, orientation: int) -> None:
    """A file with an orientation gives, bit for bit, the crops of the same upright pixels without one."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(make_pixels(8), kind, exif=exif)
    plain = encode(decode_upright(data), "PNG")
    windows = [Window(3, 7, 50, 40), Window(30, 20, 33, 61), Window(0, 0, 2, 2)]
    turned = crop_good(cropper, *(make_face(data, window) for window in windows))
    assert np.array_equal(turned, crop_good(cropper, *(make_face(plain, window) for window in windows)))


def test_faces_of_one_image_do_not_depend_on_each_other(cropper: FaceCropper) -> None:
    """More faces of one image than fit into a batch give the crops of one call for each face."""
    data = encode(make_pixels(9, 400, 300), "JPEG", subsampling=2)
    windows = [Window(23 * i, 13 * i, 50 + 7 * i, 40 + 9 * i) for i in range(2 * MAX_BATCH + 1)]
    faces = [make_face(data, window) for window in windows]
    assert np.array_equal(crop_good(cropper, *faces), [crop_good(cropper, face)[0] for face in faces])


def test_a_crop_is_an_rgb_square_of_the_specs_size() -> None:
    """The spec states the size, red is channel 0, and a call without faces is no error."""
    red = np.zeros((64, 64, 3), np.uint8)
    red[:, :, 0] = 200
    small = FaceCropper(PreprocessSpec(size=32), threads=1, max_batch=1)
    crop = crop_good(small, make_face(encode(red, "PNG")))[0]
    assert np.array_equal(crop, red[:32, :32])
    assert small.crop([]) == []


def test_a_warning_of_libjpeg_is_a_refusal(cropper: FaceCropper, capfd: pytest.CaptureFixture[str]) -> None:
    """Pixels that libjpeg fills with grey are undecodable; its warning is the detail and is not printed."""
    data = encode(make_pixels(10), "JPEG")
    cut = data[: len(data) * 2 // 3] + b"\xff\xd9"
    crop = cropper.crop([make_face(cut)])[0]
    assert isinstance(crop, Unscorable)
    assert crop.reason is Reason.UNDECODABLE
    assert "premature end" in crop.detail
    assert not capfd.readouterr().err


def test_a_size_that_the_decoder_does_not_find_is_a_refusal(cropper: FaceCropper) -> None:
    """If header and decoder disagree, only that image is refused."""
    valid = make_face(encode(make_pixels(11), "PNG"))
    info = replace(valid.info, width=5000)
    wrong = EncodedFace(valid.data, replace(info, sha256="another"), Window(100, 0, 4000, 90))
    refused, cropped = cropper.crop([wrong, valid])
    assert isinstance(refused, Unscorable)
    assert isinstance(cropped, np.ndarray)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 8), st.integers(1, 80))
def test_batches_keep_both_budgets(pixels: list[int], max_items: int, max_pixels: int) -> None:
    """Batches contain every item once and in order, within both limits, except for a single larger item."""
    batches = list(split_batches(list(enumerate(pixels)), max_items, max_pixels))
    assert [number for batch in batches for number in batch] == list(range(len(pixels)))
    for batch in batches:
        assert len(batch) <= max_items
        assert len(batch) == 1 or sum(pixels[number] for number in batch) <= max_pixels
