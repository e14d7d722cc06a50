"""The detector on the public-domain astronaut portrait: every container, orientation and size."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ingest.detect import Detection, DetectorSpec, FaceDetector, load_detector, plan_scales
from ingest.probe import probe_image
from ingest.spec import MIN_VISIBLE_SHARE, FaceBox

FACE = FaceBox(179.8, 63.1, 91.0, 115.1)  # YuNet's box of the 512 x 512 portrait, at score 0.94
STORE = {  # how upright pixels are stored under each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    """The starter bundle."""
    return root / "model_repository"


@pytest.fixture(scope="module")
def detector(folder: Path) -> FaceDetector:
    """The detector on one thread."""
    return load_detector(folder, DetectorSpec(), threads=1)


@pytest.fixture(scope="module")
def upright(portrait: bytes) -> Image.Image:
    """The portrait's pixels, RGB."""
    return Image.open(io.BytesIO(portrait)).convert("RGB")


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return `image` as an encoded file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def detect(detector: FaceDetector, data: bytes) -> list[Detection]:
    """Check the headers and find the faces, as the scorer does."""
    return detector.detect(data, probe_image(data))


def measure_iou(a: FaceBox, b: FaceBox) -> float:
    """Return the intersection over the union."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a.width * a.height + b.width * b.height - shared)


def move(box: FaceBox, scale: float, right: float = 0, down: float = 0) -> FaceBox:
    """Return `box` scaled about the origin, then shifted."""
    return FaceBox(box.x * scale + right, box.y * scale + down, box.width * scale, box.height * scale)


def assert_only(found: list[Detection], expected: FaceBox, iou: float = 0.7) -> None:
    """Check that one face was found, at the expected position."""
    assert len(found) == 1
    assert measure_iou(found[0].box, expected) > iou
    assert 0.7 <= found[0].confidence <= 1


def test_finds_the_astronaut(detector: FaceDetector, portrait: bytes) -> None:
    """One face is found, where another detector finds it."""
    assert_only(detect(detector, portrait), FACE, iou=0.8)


ENCODINGS: dict[str, Callable[[Image.Image], bytes]] = {
    "rgb jpeg": lambda image: encode(image, "JPEG", quality=90),
    "progressive jpeg": lambda image: encode(image, "JPEG", progressive=True),
    "grey jpeg": lambda image: encode(image.convert("L"), "JPEG"),
    "cmyk jpeg": lambda image: encode(image.convert("CMYK"), "JPEG"),
    "16-bit grey png": lambda image: encode(Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)),
    "palette png": lambda image: encode(image.quantize(256)),
    "palette png with transparency": lambda image: encode(image.quantize(256), transparency=0),
    "grey png with alpha": lambda image: encode(image.convert("LA")),
    "png with alpha": lambda image: encode(image.convert("RGBA")),
    "webp": lambda image: encode(image, "WEBP"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_finds_the_face_in_every_encoding(detector: FaceDetector, upright: Image.Image, encoding: str) -> None:
    """The face is found for every colour model, bit depth, palette, transparency and container."""
    assert_only(detect(detector, ENCODINGS[encoding](upright)), FACE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_upright(detector: FaceDetector, upright: Image.Image, orientation: int) -> None:
    """For every orientation, the box is the one in the upright picture."""
    wide = upright.crop((0, 0, 512, 400))
    stored = wide.transpose(STORE[orientation]) if orientation in STORE else wide
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encode(stored, "JPEG", quality=95, exif=exif)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == wide.size
    assert_only(detect(detector, data), FACE)


@pytest.mark.parametrize("picture", ["grey", "noise", "stripes"])
def test_finds_no_face_in_a_picture_without_one(detector: FaceDetector, picture: str) -> None:
    """A picture without a face gives an empty list, not an error."""
    rng = np.random.default_rng(0)
    pixels = {
        "grey": np.full((700, 900, 3), 128, np.uint8),
        "noise": rng.integers(0, 256, (700, 900, 3), np.uint8),
        "stripes": np.tile(np.arange(900, dtype=np.uint8)[None, :, None] // 7 * 40, (700, 1, 3)),
    }
    assert detect(detector, encode(Image.fromarray(pixels[picture]))) == []


@pytest.mark.parametrize("scale", [0.75, 1, 2, 5, 9])
def test_finds_the_face_at_every_size(detector: FaceDetector, upright: Image.Image, scale: float) -> None:
    """Faces from 68 to 820 px are found in up to 21 megapixels, and the box scales with the picture."""
    side = round(512 * scale)
    assert_only(detect(detector, encode(upright.resize((side, side)), "JPEG", quality=90)), move(FACE, scale))


@pytest.mark.parametrize("side", [108, 144, 180, 256, 340])
def test_finds_the_small_face_of_an_avatar(detector: FaceDetector, upright: Image.Image, side: int) -> None:
    """Faces from 20 px are found in a picture that is small itself."""
    assert_only(detect(detector, encode(upright.resize((side, side)))), move(FACE, side / 512))


def test_searches_smaller_faces_only_on_request(detector: FaceDetector, upright: Image.Image) -> None:
    """A face of 53 px in a large photograph is found only if the caller scores such faces, on a larger level."""
    sheet = Image.new("RGB", (1600, 1200), (90, 110, 100))
    sheet.paste(upright.resize((300, 300)), (700, 500))
    data = encode(sheet, "JPEG", quality=95)
    info, expected = probe_image(data), move(FACE, 300 / 512, 700, 500)
    assert detector.detect(data, info) == []
    assert_only(detector.detect(data, info, 40), expected, iou=0.6)
    spec, size = DetectorSpec(), (info.width, info.height)
    assert plan_scales(size, spec, 40)[0] > plan_scales(size, spec, spec.min_face_px)[0]


def test_small_faces_are_returned_only_without_a_larger_one(detector: FaceDetector, upright: Image.Image) -> None:
    """A person in the background of a portrait is not returned, unless the caller scores such faces."""
    pair = Image.new("RGB", (790, 512), (90, 110, 100))
    pair.paste(upright, (0, 0))
    pair.paste(upright.resize((270, 270)), (516, 100))
    data, small = encode(pair), move(FACE, 270 / 512, 516, 100)
    assert_only(detect(detector, data), FACE)
    boxes = [face.box for face in detector.detect(data, probe_image(data), 40)]
    assert len(boxes) == 2
    assert max(measure_iou(box, small) for box in boxes) > 0.6
    alone = encode(pair.crop((516, 0, 790, 512)))
    assert_only(detect(detector, alone), move(small, 1, -516), iou=0.6)


def test_a_larger_limit_changes_no_box(detector: FaceDetector, portrait: bytes) -> None:
    """A caller who scores only large faces gets the same boxes; the caller filters them."""
    info = probe_image(portrait)
    assert detector.detect(portrait, info, 500) == detector.detect(portrait, info)


def test_a_strip_of_a_face_is_found(detector: FaceDetector, upright: Image.Image) -> None:
    """The eyes of a portrait, as web pages crop them, are a face, although most of its box lies outside."""
    strip = upright.resize((1536, 1536), Image.Resampling.LANCZOS).crop((510, 285, 870, 385))
    (face,) = detect(detector, encode(strip.resize((240, 66), Image.Resampling.LANCZOS), "JPEG", quality=92))
    assert face.box.visible_share(240, 66) < MIN_VISIBLE_SHARE


def test_a_second_look_changes_no_box(folder: Path, upright: Image.Image) -> None:
    """A detector that verifies every face gives, bit for bit, the boxes of one that verifies none."""
    spec = DetectorSpec()
    always = load_detector(folder, replace(spec, sure_confidence=1.0), threads=1)
    without = load_detector(folder, replace(spec, sure_confidence=spec.min_confidence), threads=1)
    data = encode(upright)
    assert [face.box for face in detect(always, data)] == [face.box for face in detect(without, data)]
    never = load_detector(folder, replace(spec, sure_confidence=1.0, second_confidence=1.0), threads=1)
    assert detect(never, data) == []


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_finds_a_face_that_fills_the_picture(detector: FaceDetector, upright: Image.Image, margin: float) -> None:
    """The face of a close crop, such as a profile picture, is found."""
    left, top = FACE.x - margin * FACE.width, FACE.y - margin * FACE.height
    size = ((1 + 2 * margin) * FACE.width, (1 + 2 * margin) * FACE.height)
    crop = upright.crop((round(left), round(top), round(left + size[0]), round(top + size[1])))
    scale = 800 / crop.width
    found = detect(detector, encode(crop.resize((800, round(crop.height * scale)))))
    assert_only(found, move(FACE, scale, -left * scale, -top * scale), iou=0.6)


def test_finds_small_faces_in_a_large_photograph(detector: FaceDetector, upright: Image.Image) -> None:
    """Twelve faces of 105 to 165 px in 12 megapixels, some of them cut by tiles, are found once each."""
    rng = np.random.default_rng(1)
    sheet = Image.new("RGB", (4000, 3000), (90, 110, 100))
    expected = []
    for index in range(12):
        scale = rng.uniform(1.15, 1.8)
        side = round(512 * scale)
        corner = (index % 4 * 960 + int(rng.integers(0, 30)), index // 4 * 960 + int(rng.integers(0, 30)))
        sheet.paste(upright.resize((side, side)), corner)
        expected.append(move(FACE, scale, *corner))
    found = detect(detector, encode(sheet, "JPEG", quality=90))
    assert len(found) == len(expected)
    assert all(max(measure_iou(box, face.box) for face in found) > 0.6 for box in expected)


def test_threads_do_not_change_the_result(folder: Path, detector: FaceDetector, upright: Image.Image) -> None:
    """Two streams with four callers give, bit for bit, the faces of one stream with one caller."""
    data = encode(upright.resize((3000, 2400)), "JPEG")
    alone = detect(detector, data)
    shared = load_detector(folder, DetectorSpec(), threads=2)
    with ThreadPoolExecutor(4) as callers:
        assert all(found == alone for found in callers.map(lambda _: detect(shared, data), range(8)))


def test_refuses_a_folder_without_weights(tmp_path: Path) -> None:
    """The error names the missing file."""
    with pytest.raises(ValueError, match=r"face_detector/1/model\.xml\.xz: the bundle's face detector is missing"):
        load_detector(tmp_path, DetectorSpec(), threads=1)


def test_refuses_weights_that_are_no_model(tmp_path: Path) -> None:
    """Bytes that are no model raise ValueError with one sentence, not an exception of the engine."""
    (tmp_path / "model.tflite").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"model\.tflite: OpenVINO cannot read"):
        load_detector(tmp_path, DetectorSpec(file="model.tflite"), threads=1)
