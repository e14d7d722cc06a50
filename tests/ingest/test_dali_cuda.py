"""The GPU's cropper, run on the CPU: the crops of `ingest.dali`, and damage that affects no other image."""

import io
from dataclasses import replace

import numpy as np
import pytest
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from ingest.dali import FaceCropper
from ingest.dali_cuda import HW_DECODER_LOAD, DeviceCropper, declare_cutter, declare_decoder
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.spec import PreprocessSpec, Window

ORIENTATION = 0x0112
MAX_BATCH = 4
WINDOWS = [Window(3, 7, 50, 40), Window(30, 20, 33, 61), Window(0, 0, 90, 90), Window(0, 0, 2, 2)]


def encode(kind: str, seed: int = 0, **options: object) -> bytes:
    """Return 120 x 100 pixels of smooth noise as encoded bytes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((120, 100), Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def damage(data: bytes) -> bytes:
    """Return `data` with the last two thirds of its compressed pixels overwritten, except for its end."""
    start, stop = len(data) // 3, len(data) - 20
    return data[:start] + (b"\xa5\x5a" * len(data))[: stop - start] + data[stop:]


def make_faces(data: bytes, *windows: Window) -> list[EncodedFace]:
    """Return faces in `data`, by default the whole picture."""
    info = probe_image(data)
    return [EncodedFace(data, info, window) for window in windows or [Window(0, 0, info.width, info.height)]]


@pytest.fixture(scope="module")
def device_cropper() -> DeviceCropper:
    """The GPU's cropper on the CPU, shared, so that each test also meets the state after the others."""
    return DeviceCropper(PreprocessSpec(), 2, MAX_BATCH, "cpu")


@pytest.fixture(scope="module")
def cropper() -> FaceCropper:
    """The CPU's cropper."""
    return FaceCropper(PreprocessSpec(), 2, MAX_BATCH)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_crops_are_those_of_the_cpu_s_cropper(
    device_cropper: DeviceCropper, cropper: FaceCropper, kind: str, orientation: int
) -> None:
    """In every format and orientation: bit for bit if upright, else one grey level in less than 1 value of 1,000."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    faces = make_faces(encode(kind, exif=exif), *WINDOWS)
    crops, failures = device_cropper.crop(faces)
    difference = np.abs(np.subtract(crops, np.array(cropper.crop(faces)), dtype=np.int64))
    assert not failures
    assert difference.max() <= (orientation != 1)
    assert (difference > 0).mean() < 1e-3


def test_a_broken_image_never_changes_its_batch(device_cropper: DeviceCropper) -> None:
    """Damage of each kind has a reason and only its own face fails; every other crop is the same as alone."""
    good = [
        face for seed, kind in enumerate(("JPEG", "PNG", "WEBP", "JPEG")) for face in make_faces(encode(kind, seed))
    ]
    broken = [
        face
        for data in (encode("JPEG", 5), encode("WEBP", 8, lossless=True), encode("JPEG", 7, progressive=True))
        for face in make_faces(damage(data))
    ]
    mixed = [good[0], broken[0], good[1], good[0], broken[1], good[2], broken[2], good[3]]
    crops, failures = device_cropper.crop(mixed)
    assert {position: failure.reason for position, failure in failures.items()} == dict.fromkeys(
        (1, 4, 6), Reason.UNDECODABLE
    )
    assert not crops[[1, 4, 6]].any()
    for position in (0, 2, 3, 5, 7):
        np.testing.assert_array_equal(crops[position], device_cropper.crop([mixed[position]])[0][0])


def test_the_cpu_s_cropper_decides_on_failed_images(device_cropper: DeviceCropper, cropper: FaceCropper) -> None:
    """A size that the decoder does not find is refused with the message of the CPU's cropper, for each face."""
    valid = make_faces(encode("PNG", 8))[0]
    info = replace(valid.info, width=5000, sha256="another")
    wrong = [EncodedFace(valid.data, info, Window(left, 0, 4000, 90)) for left in (100, 200)]
    crops, failures = device_cropper.crop([wrong[0], valid, wrong[1]])
    refusals = cropper.crop(wrong)
    assert all(isinstance(refusal, Unscorable) for refusal in refusals)
    assert [str(failures[position]) for position in (0, 2)] == [str(refusal) for refusal in refusals]
    assert crops[1].any()


def test_faces_of_one_image_do_not_depend_on_each_other(device_cropper: DeviceCropper) -> None:
    """More faces than fit into a batch, mixed with those of another image, are returned in their order."""
    one, other = encode("JPEG", 9), encode("JPEG", 10)
    windows = [Window(3 * i, 2 * i, 40 + 7 * i, 40 + 5 * i) for i in range(2 * MAX_BATCH + 1)]
    faces = [face for window in windows for data in (one, other) for face in make_faces(data, window)]
    crops, _ = device_cropper.crop(faces)
    np.testing.assert_array_equal(crops, np.concatenate([device_cropper.crop([face])[0] for face in faces]))


def test_a_call_without_faces_is_no_error(device_cropper: DeviceCropper) -> None:
    """A call without faces returns no crops."""
    crops, failures = device_cropper.crop([])
    assert crops.shape == (0, 224, 224, 3)
    assert not failures


def test_an_error_without_a_bad_image_is_raised(device_cropper: DeviceCropper) -> None:
    """An error that no image causes is raised, and the next call uses new pipelines."""
    face = make_faces(encode("PNG", 11))[0]
    strange = EncodedFace(face.data, replace(face.info, media_type="image/bmp"), face.window)
    with pytest.raises(KeyError, match="image/bmp"):
        device_cropper.crop([strange])
    assert device_cropper.crop([face])[0].any()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_graphs_for_a_gpu_can_be_declared_without_one(device: str) -> None:
    """DALI accepts each operator, its arguments and its device; only a run needs a GPU."""
    decoder, cutter = (Pipeline(MAX_BATCH, 1, None, prefetch_queue_depth=1) for _ in range(2))
    declare_decoder(decoder, device, HW_DECODER_LOAD)  # type: ignore[arg-type]  # parametrize loses the literal
    declare_cutter(cutter, device, PreprocessSpec())  # type: ignore[arg-type]  # as above
    assert (b"mixed" in decoder.serialize()) == (device == "cuda")
    assert (b"gpu" in cutter.serialize()) == (device == "cuda")
