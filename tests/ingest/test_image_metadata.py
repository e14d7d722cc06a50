"""What headers state about an image's history, and that no header can cause a failure."""

import io
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ingest.image_metadata import ImageMetadata, estimate_quality, read_image_metadata
from ingest.probe import ImageInfo, probe_image
from ingest.reasons import Unscorable
from tests.hostile.test_survival import mutate

PICTURE = Image.linear_gradient("L").resize((90, 60)).convert("RGB")
INFO = ImageInfo("image/jpeg", 90, 60, 1, "0" * 64)
MAKE, MODEL, EXIF_DIRECTORY, PIXEL_X, PIXEL_Y = 0x010F, 0x0110, 0x8769, 0xA002, 0xA003


def encode(kind: str = "JPEG", tags: dict[int, object] | None = None, **options: object) -> bytes:
    """Return the test picture with EXIF `tags` of the main directory."""
    exif = Image.Exif()
    exif.update(tags or {})
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def read(data: bytes) -> ImageMetadata:
    """Return the metadata of a picture that `probe_image` accepts."""
    return read_image_metadata(data, probe_image(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_camera_and_size_are_read_from_every_container(kind: str) -> None:
    """Make, model and the stated size are read from JPEG, PNG and WebP."""
    tags = {MAKE: "Canon", MODEL: "EOS 5D", EXIF_DIRECTORY: {PIXEL_X: 4000, PIXEL_Y: 70_000}}
    metadata = read(encode(kind, tags))
    assert (metadata.camera, metadata.exif_width, metadata.exif_height) == ("Canon EOS 5D", 4000, 70_000)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Apple", "iPhone 13", "Apple iPhone 13"),
        ("Apple", "", "Apple"),
        ("", "D90", "D90"),
        ("HP", "HPhotosmart", "HP HPhotosmart"),
        ("Evil\x00 twin", "a\x1b[31m\nb\u202ec", "Evil a [31m b c"),
        ("x" * 500, "y" * 500, "x" * 48 + " " + "y" * 48),
    ],
)
def test_a_camera_is_one_short_line(make: str, model: str, camera: str) -> None:
    """The make is not repeated; controls, line ends and direction marks are removed; the length is limited."""
    tags = {tag: text for tag, text in ((MAKE, make.encode()), (MODEL, model.encode())) if text}
    exif = _write_exif(tags)
    data = encode()
    assert read(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]).camera == camera


def _write_exif(tags: dict[int, bytes]) -> bytes:
    """Return an EXIF block of exactly these texts; Pillow would correct them."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries, texts = b"", b""
    for tag, text in tags.items():
        ended = text + b"\0"
        place = ended.ljust(4, b"\0") if len(ended) <= 4 else struct.pack("<I", start + len(texts))
        entries += struct.pack("<HHI", tag, 2, len(ended)) + place
        texts += ended if len(ended) > 4 else b""
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + texts


@given(quality=st.integers(1, 100), grey=st.booleans(), progressive=st.booleans())
@settings(max_examples=40, deadline=None)
def test_quality_is_the_one_that_libjpeg_was_given(quality: int, *, grey: bool, progressive: bool) -> None:
    """The quality with which a JPEG is saved is the one that is read."""
    buffer = io.BytesIO()
    PICTURE.convert("L" if grey else "RGB").save(buffer, "JPEG", quality=quality, progressive=progressive)
    assert read(buffer.getvalue()).jpeg_quality == quality


@given(first=st.integers(0, 70_000), second=st.integers(0, 70_000))
def test_coarser_tables_never_mean_a_higher_quality(first: int, second: int) -> None:
    """A larger sum of the table never gives a higher estimate, and each estimate is on the scale."""
    low, high = sorted((first, second))
    assert 1 <= estimate_quality(high) <= estimate_quality(low) <= 100


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_only_a_jpeg_has_a_quality(kind: str) -> None:
    """Other containers state no JPEG quality and, without EXIF, nothing at all."""
    assert read(encode(kind)) == ImageMetadata()


def test_wide_tables_are_read() -> None:
    """A table of 16-bit entries is read, and a truncated one is not."""
    eight = encode(quality=90)
    start = eight.index(b"\xff\xdb")
    table = eight[start + 5 : start + 69]
    wide = b"\x10" + b"".join(bytes([0, entry]) for entry in table)
    swapped = eight[:start] + b"\xff\xdb" + struct.pack(">H", len(wide) + 2) + wide + eight[start + 69 :]
    assert read_image_metadata(swapped, INFO).jpeg_quality == 90
    cut = eight[:start] + b"\xff\xdb" + struct.pack(">H", 12) + wide[:10] + eight[start + 69 :]
    assert read_image_metadata(cut, INFO).jpeg_quality is None


def test_few_coarse_entries_do_not_lower_the_quality() -> None:
    """Sixteen entries at their largest value, which affect the pixels little, change no estimate."""
    data = bytearray(encode(quality=90))
    start = data.index(b"\xff\xdb") + 5
    for place in sorted(range(64), key=lambda entry: data[start + entry])[48:]:
        data[start + place] = 255
    assert read_image_metadata(bytes(data), INFO).jpeg_quality == 90


def test_the_table_is_the_one_that_decodes_the_luminance() -> None:
    """A table counts if it is defined before the first scan with the first component; later ones are ignored."""
    fine, coarse = encode(quality=90), encode(quality=20)
    start = fine.index(b"\xff\xdb")
    segment = fine[start : start + 69]
    coarse_segment = coarse[coarse.index(b"\xff\xdb") :][:69]
    of_chroma = b"\xff\xda" + struct.pack(">HBBB", 8, 1, 2, 0x11) + b"\0?\0" + b"\x12\x34"
    scan = fine.index(b"\xff\xda")
    defined_late = fine[:start] + coarse_segment + fine[start + 69 : scan] + of_chroma + segment + fine[scan:]
    assert read_image_metadata(defined_late, INFO).jpeg_quality == 90
    redefined = fine[:-2] + coarse_segment + fine[scan:]
    assert read_image_metadata(redefined, INFO).jpeg_quality == 90
    without_a_scan = fine[:scan] + b"\xff\xda\0\2"
    assert read_image_metadata(without_a_scan, INFO).jpeg_quality == 90


@settings(max_examples=150, deadline=None)
@given(data=mutate(), kind=st.sampled_from(["image/jpeg", "image/png", "image/webp"]))
def test_no_damage_raises(data: bytes, kind: str) -> None:
    """Damaged pictures, also with the media type of another container, give metadata within their limits."""
    metadata = read_image_metadata(data, ImageInfo(kind, 90, 60, 1, "0" * 64))
    assert len(metadata.camera) <= 97
    assert metadata.camera.isprintable()
    assert metadata.jpeg_quality is None or 1 <= metadata.jpeg_quality <= 100


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200), order=st.sampled_from([b"II*\0", b"MM\0*"]))
def test_no_directory_raises(body: bytes, order: bytes) -> None:
    """Random directories with any pointers, also to themselves, never raise an exception."""
    exif = b"Exif\0\0" + order + body
    data = encode()
    hostile = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    try:
        assert read(hostile).camera.isprintable()
    except Unscorable:
        pytest.fail("probe_image refuses a picture for its metadata")


def test_a_huge_directory_costs_little() -> None:
    """A PNG whose EXIF block has 65,535 entries and a megabyte is read in 50 ms of CPU, its first entry included."""
    entries = struct.pack("<HHI4s", MAKE, 2, 4, b"me\0\0") + struct.pack("<HHII", 1, 2, 2**32 - 1, 2**32 - 1) * 65_534
    exif = b"II*\0" + struct.pack("<IH", 8, 65_535) + entries + bytes(2**20)
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    info = probe_image(data)
    before = time.thread_time()
    for _ in range(20):
        assert read_image_metadata(data, info).camera == "me"
    assert time.thread_time() - before < 1
