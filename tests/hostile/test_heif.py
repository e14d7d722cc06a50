"""Hostile HEIC, AVIF and JPEG XL: each file gets one typed reason, before a decoder reads it where tables are wrong."""

import io
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from PIL import Image

from ingest.decode_heif import decode_heif, find_missing
from ingest.formats.heif import MAX_TILES, HeifPicture, open_heif
from ingest.formats.heif_writer import strip_heif, write_heif
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.bundle import Bundle
from tests.ingest.formats import jxl_files
from tests.ingest.formats.heif_files import encode, make_grid, make_picture, replace_field

WHOLE = Window(0, 0, 64, 64)


def repeat_tiles(columns: int, rows: int, tile: int, canvas: tuple[int, int]) -> bytes:
    """Return a grid that shows one small coded image many times, with sizes that it only states."""
    picture = open_heif(encode("HEIF"))
    size = struct.pack(">III", 0, tile, tile)
    owned = tuple(p._replace(body=size) if p.kind == b"ispe" else p for p in picture.properties[0])
    grid = replace(picture, width=canvas[0], height=canvas[1], columns=columns, rows=rows, tile_size=(tile, tile))
    whole = Window(0, 0, *canvas)
    count = columns * rows
    return write_heif(replace(grid, tiles=picture.tiles * count, properties=(owned,) * count, crop=whole))


def wrap_parts(*numbers: int) -> bytes:
    """Return a JPEG XL container with a part of a codestream for each number."""
    parts = (jxl_files.write_box(b"jxlp", number.to_bytes(4, "big") + b"\xff\x0a") for number in numbers)
    return jxl_files.CONTAINER + b"".join(parts)


LAST_PART = 1 << 31
CASES: dict[str, tuple[Reason, Callable[[], bytes]]] = {
    "JPEG XL of a billion pixels a side": (
        Reason.TOO_MANY_PIXELS,
        lambda: jxl_files.write_header(((3 << 1, 3), (2**30 - 1, 30), (1, 3))),
    ),
    "JPEG XL of thousands of channels": (
        Reason.TOO_MANY_PIXELS,
        lambda: jxl_files.write_header(jxl_files.write_size(500, 499), extra=((3, 2), (4095, 12), *[(1, 1)] * 4096)),
    ),
    "JPEG XL of CMYK": (
        Reason.UNSUPPORTED_FORMAT,
        lambda: jxl_files.write_header(jxl_files.write_size(61, 95), extra=((1, 2), (0, 1), (2, 2), (2, 4), (0, 7))),
    ),
    "JPEG XL of floats": (Reason.UNSUPPORTED_FORMAT, lambda: jxl_files.encode(np.zeros((40, 40), np.float32))),
    "animated JPEG XL": (Reason.ANIMATED, lambda: jxl_files.encode(np.zeros((2, 40, 40, 3), np.uint8))),
    "a header that ends early": (Reason.TRUNCATED, lambda: jxl_files.wrap(b"\xff\x0a\0")),
    "no codestream": (Reason.TRUNCATED, lambda: jxl_files.CONTAINER),
    "a codestream without its signature": (Reason.UNDECODABLE, lambda: jxl_files.wrap(b"none")),
    "two codestreams": (Reason.UNDECODABLE, lambda: jxl_files.wrap(b"", jxl_files.write_box(b"jxlc", b""))),
    "a part behind the last one": (Reason.UNDECODABLE, lambda: wrap_parts(LAST_PART, 1)),
    "parts in another order": (Reason.UNDECODABLE, lambda: wrap_parts(1, LAST_PART)),
    "a part that is missing": (Reason.UNDECODABLE, lambda: wrap_parts(0, LAST_PART | 2)),
    "no last part": (Reason.TRUNCATED, lambda: wrap_parts(0, 1)),
    "thousands of boxes": (Reason.UNDECODABLE, lambda: jxl_files.CONTAINER + 5000 * jxl_files.write_box(b"free", b"")),
    "a grid of giant tiles": (Reason.TOO_MANY_PIXELS, lambda: repeat_tiles(4, 4, 25_000, (99_000, 99_000))),
    "a giant tile behind a small canvas": (Reason.TOO_MANY_PIXELS, lambda: repeat_tiles(1, 1, 60_000, (64, 64))),
    "tiles that leave a gap": (Reason.UNDECODABLE, lambda: repeat_tiles(2, 2, 64, (200, 128))),
    "more tiles than are read": (Reason.UNDECODABLE, lambda: repeat_tiles(64, MAX_TILES // 64 + 1, 64, (4096, 1088))),
    "a tile outside the canvas": (Reason.UNDECODABLE, lambda: repeat_tiles(3, 2, 64, (128, 128))),
    "thousands of items": (Reason.UNDECODABLE, lambda: replace_field(encode("HEIF"), b"iinf", 4, b"\xff\xff")),
    "an item outside the file": (
        Reason.TRUNCATED,
        lambda: replace_field(make_grid(1, 1, 64, 64), b"iloc", 18, b"\x7f"),
    ),
    "a nested box that is too long": (Reason.UNDECODABLE, lambda: replace_field(encode("HEIF"), b"iprp", 0, b"\x7f")),
    "a box of three bytes": (Reason.UNDECODABLE, lambda: replace_field(encode("HEIF"), b"iprp", 0, b"\0\0\0\3")),
    "no primary item": (Reason.UNDECODABLE, lambda: replace_field(encode("HEIF"), b"pitm", 4, b"\xff\xff")),
    "another codec": (Reason.UNSUPPORTED_FORMAT, lambda: encode("HEIF").replace(b"hvc1", b"vvc1")),
    "an unknown essential property": (
        Reason.UNSUPPORTED_FORMAT,
        lambda: write_heif(_own_essential(b"warp")),
    ),
    "a file cut in its pixels": (Reason.TRUNCATED, lambda: encode("HEIF")[:-100]),
    "an AVIF cut in half": (Reason.TRUNCATED, lambda: encode("AVIF")[: len(encode("AVIF")) // 2]),
    "a file of its brand only": (Reason.UNSUPPORTED_FORMAT, lambda: encode("HEIF")[: encode("HEIF")[3]]),
}


def _own_essential(kind: bytes) -> HeifPicture:
    picture = open_heif(encode("HEIF"))
    owned = picture.properties[0]
    return replace(picture, properties=((*owned, owned[0]._replace(kind=kind, body=b"", essential=True)),))


@pytest.mark.parametrize("name", CASES)
def test_hostile_tables_are_refused_without_decoding(name: str) -> None:
    """Each file has the one reason that its fault has."""
    reason, make = CASES[name]
    with pytest.raises(Unscorable) as refusal:
        probe_image(make())
    assert refusal.value.reason is reason, refusal.value.detail


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_every_truncation_and_bit_flip_has_one_outcome(kind: str) -> None:
    """Of a damaged file the probe gives an image or a reason, and nothing else; no truncated file is admitted."""
    data, rng = encode(kind), np.random.default_rng(3)
    for end in range(1, len(data), 7):
        with pytest.raises(Unscorable):
            probe_image(data[:end])
    for _ in range(2000):
        changed = bytearray(data)
        changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            info = probe_image(bytes(changed))
        except Unscorable:
            continue
        assert info.decoded_pixels <= 200_000_000


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_damaged_files_are_cut_or_refused_in_the_sandbox(sandbox: Sandbox, kind: str) -> None:
    """The sandbox answers for each damaged file with a crop or a typed reason, and keeps working."""
    data, rng, outcomes = encode(kind), np.random.default_rng(4), []
    for _ in range(25):
        changed = bytearray(data)
        for _ in range(3):
            changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            info = probe_image(bytes(changed))
        except Unscorable:
            continue
        face = EncodedFace(bytes(changed), info, Window(0, 0, info.width, info.height))
        outcomes += [result for _, result in sandbox.crop([face])]
    assert outcomes
    assert all(isinstance(each, Unscorable | np.ndarray) for each in outcomes)


@pytest.mark.parametrize("tenths", [9, 3, 1])
def test_codes_that_end_early_are_missing_pixels(sandbox: Sandbox, tenths: int) -> None:
    """A HEIC whose last slice is cut is refused, although its container is whole and its decoder gives no error."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(buffer, "HEIF", quality=90)
    picture = open_heif(buffer.getvalue())
    tile = picture.tiles[0][: len(picture.tiles[0]) * tenths // 10]
    data = write_heif(replace(picture, tiles=((len(tile) - 4).to_bytes(4, "big") + tile[4:],)))
    info = probe_image(data)
    ((_, crop),) = sandbox.crop([EncodedFace(data, info, Window(0, 0, 512, 512))])
    assert isinstance(crop, Unscorable)
    assert crop.reason is Reason.UNDECODABLE


def test_a_large_picture_is_whole() -> None:
    """The codes that are added to find missing ones stay within what the decoder reads: 12 megapixels in one tile."""
    buffer = io.BytesIO()
    Image.new("RGB", (4032, 3024), "grey").save(buffer, "HEIF", quality=30)
    bare = strip_heif(buffer.getvalue())
    window = Window(1000, 2900, 96, 64)
    assert find_missing(bare, window, decode_heif(bare, window)) is None


def test_a_coded_size_beyond_the_stated_one_is_no_lack_of_memory(sandbox: Sandbox) -> None:
    """Libheif counts a coded picture that is larger than stated as memory; the file is undecodable."""
    picture = open_heif(encode("HEIF", 1600, 64))
    small = struct.pack(">III", 0, 64, 64)
    owned = tuple(p._replace(body=small) if p.kind == b"ispe" else p for p in picture.properties[0])
    data = write_heif(replace(picture, width=64, height=64, tile_size=(64, 64), properties=(owned,), crop=WHOLE))
    with pytest.raises(Unscorable) as refusal:
        sandbox.detect(data, probe_image(data))
    assert refusal.value.reason is Reason.UNDECODABLE


@pytest.mark.parametrize("lossless", [True, False])
def test_no_truncated_codestream_has_pixels(sandbox: Sandbox, *, lossless: bool) -> None:
    """Wherever a bare JPEG XL ends early, the probe or the decoder reports it."""
    data = jxl_files.encode(make_picture(), lossless=lossless)
    for end in [*np.linspace(2, len(data) - 1, 40).astype(int), len(data)]:
        try:
            face = EncodedFace(data[:end], probe_image(data[:end]), WHOLE)
        except Unscorable:
            continue
        ((_, crop),) = sandbox.crop([face])
        assert isinstance(crop, Unscorable) == (end < len(data)), end


def test_a_tiny_file_of_a_huge_picture_needs_its_memory(starter: Bundle) -> None:
    """A flat JPEG XL of 36 megapixels in 8 KB is decoded only where the memory that it may take is available."""
    data = jxl_files.encode(np.zeros((6000, 6000, 3), np.uint8), effort=1)
    face, preprocess = EncodedFace(data, probe_image(data), WHOLE), starter.manifest.preprocess
    assert len(data) < 10_000
    for megabytes, outcome in ((500, Unscorable), (1500, np.ndarray)):
        with closing(Sandbox(starter.folder, None, preprocess, 1, memory_bytes=megabytes << 20)) as limited:
            ((_, crop),) = limited.crop([face])
        assert isinstance(crop, outcome)
