"""Damage in compressed data: a face is refused only if it contains damaged pixels, by both decoders."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from ingest.dali import FaceCropper
from ingest.detect import FaceDetector
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.spec import PreprocessSpec, Window

SPEC = PreprocessSpec()
WINDOWS = [Window(100, top, 128, 128) for top in range(0, 512, 128)]
KINDS = {
    "baseline": {},
    "restarts by the row": {"restart_marker_rows": 1},
    "restarts by the block": {"restart_marker_blocks": 5},
    "without subsampling": {"subsampling": 0},
}


@cache
def encode(kind: str = "JPEG", **options: object) -> bytes:
    """Return the public-domain portrait, whose face is in the upper half, as encoded bytes."""
    buffer = io.BytesIO()
    Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def crop(data: bytes, windows: list[Window] = WINDOWS) -> list[np.ndarray | Unscorable]:
    """Return the crops of one image."""
    info = probe_image(data)
    return FaceCropper(SPEC, threads=1, max_batch=8).crop([EncodedFace(data, info, window) for window in windows])


def name_reasons(results: list[np.ndarray | Unscorable]) -> list[Reason | None]:
    """Return the reason of each refused face, and None for the others."""
    return [result.reason if isinstance(result, Unscorable) else None for result in results]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_keeps_the_faces_above_the_cut(kind: str) -> None:
    """They have the pixels of the whole file; the faces below are truncated."""
    data = encode(**KINDS[kind])
    whole, cut = crop(data), crop(data[: len(data) * 6 // 10])
    assert name_reasons(whole) == [None] * 4
    assert name_reasons(cut)[0] is None
    assert name_reasons(cut)[2:] == [Reason.TRUNCATED] * 2
    for before, after in zip(whole, cut, strict=True):
        assert isinstance(after, Unscorable) or np.array_equal(before, after)


def test_metadata_inside_a_scan_end_it() -> None:
    """Decoders stop where metadata interrupt a scan, so that the data after them are no part of the picture."""
    data = encode()
    middle = len(data) * 6 // 10
    while 0xFF in data[middle - 1 : middle + 1]:
        middle += 1
    reasons = name_reasons(crop(data[:middle] + b"\xff\xe1\0\x02" + data[middle:]))
    assert Reason.UNDECODABLE in reasons
    assert set(reasons[2:]) == {Reason.UNDECODABLE}


@pytest.mark.parametrize("kind", KINDS)
def test_data_lost_before_the_end_marker_are_undecodable(kind: str) -> None:
    """Where data before the end marker are missing, only faces above the damage are scored."""
    data = encode(**KINDS[kind])
    assert name_reasons(crop(data[: len(data) * 6 // 10] + b"\xff\xd9"))[0] is None
    assert name_reasons(crop(data[: len(data) * 6 // 10] + b"\xff\xd9"))[2:] == [Reason.UNDECODABLE] * 2


def test_a_result_does_not_depend_on_other_faces() -> None:
    """Which faces of a damaged image are refused does not depend on the other boxes."""
    for data in (encode()[:20_000], encode()[:20_000] + b"\xff\xd9", encode()[:-2] + bytes(range(200)) + b"\xff\xd9"):
        together = crop(data)
        for window, result in zip(WINDOWS, together, strict=True):
            (alone,) = crop(data, [window])
            assert type(alone) is type(result)
            assert isinstance(alone, Unscorable) or np.array_equal(alone, result)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("ended", [True, False])
def test_damage_that_hides_a_face_is_no_missing_face(detector: FaceDetector, kind: str, *, ended: bool) -> None:
    """With and without boxes, a file that lost nine tenths of its data is not an image without a face."""
    data = encode(kind)
    start = data.index(b"\xff\xda") if kind == "JPEG" else 200
    cut = data[: start + (len(data) - start) // 10] + (b"\xff\xd9" if kind == "JPEG" and ended else b"")
    if kind == "WEBP":
        with pytest.raises(Unscorable) as refusal:
            probe_image(cut)
        assert refusal.value.reason is Reason.TRUNCATED
        return
    reason = Reason.UNDECODABLE if kind == "JPEG" and ended else Reason.TRUNCATED
    with pytest.raises(Unscorable) as refusal:
        detector.detect(cut, probe_image(cut))
    assert refusal.value.reason is reason
    assert name_reasons(crop(cut, WINDOWS[1:]))[1:] == [reason] * 2
    assert len(detector.detect(data, probe_image(data))) == 1


def test_damage_below_the_faces_changes_nothing(detector: FaceDetector) -> None:
    """A file that lost its last tenth has the same face."""
    data = encode()
    cut = data[: len(data) * 9 // 10]
    (before,), (after,) = (detector.detect(file, probe_image(file)) for file in (data, cut))
    assert after.box.as_tuple() == pytest.approx(before.box.as_tuple(), abs=0.3)  # the grey area affects the network


def test_a_missing_strip_too_small_for_a_face_is_no_damage(detector: FaceDetector) -> None:
    """An image without a face whose last rows are missing is an image without a face."""
    buffer = io.BytesIO()
    rows = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(rows).resize((512, 512)).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    assert detector.detect(data, probe_image(data)) == []
    strip = data[: len(data) - 500]
    assert detector.detect(strip, probe_image(strip)) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_too_large_for_dali_is_decoded_whole(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Its faces are those that DALI cuts, also in a batch with other images; its damage is measured, too."""
    data = encode(kind)
    expected = crop(data)
    monkeypatch.setattr("ingest.decode_batches._MAX_DECODED_BYTES", 3 * 512 * 512)
    for before, after in zip(expected, crop(data), strict=True):
        assert np.array_equal(before, after)
    if kind == "JPEG":
        assert name_reasons(crop(data[: len(data) * 6 // 10]))[2:] == [Reason.TRUNCATED] * 2
    infos = [probe_image(file) for file in (data, encode("PNG"))]
    faces = [EncodedFace(file, info, WINDOWS[0]) for file, info in zip((data, encode("PNG")), infos, strict=True)]
    assert name_reasons(FaceCropper(SPEC, threads=1, max_batch=8).crop(faces)) == [None, None]
