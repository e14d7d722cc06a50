"""Hostile JPEG XL files: each gets one typed reason, before a decoder reads it where boxes or the header are wrong."""

from collections.abc import Callable
from contextlib import closing
from functools import cache

import numpy as np
import pytest

from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.bundle import Bundle
from tests.ingest.formats.heif_files import make_picture
from tests.ingest.formats.jxl_files import CONTAINER, encode, wrap, write_box, write_header


@cache
def make_bare(**options: bool) -> bytes:
    """Return a codestream of 96 x 64 pixels."""
    return encode(make_picture(), **options)


def split(*numbers: int) -> bytes:
    """Return a container with the codestream in as many parts as there are numbers."""
    bare, count = make_bare(), len(numbers)
    parts = [bare[at * len(bare) // count : (at + 1) * len(bare) // count] for at in range(count)]
    return CONTAINER + b"".join(
        write_box(b"jxlp", n.to_bytes(4, "big") + part) for n, part in zip(numbers, parts, strict=True)
    )


LAST = 1 << 31
FLOAT = ((1, 1), (1, 2), (4, 4))  # 16 bits, of which five are the exponent
CMYK = ((1, 2), (0, 1), (2, 2), (2, 4), (0, 1), (0, 2), (0, 2), (0, 2))  # one channel: black, 8 bits
CASES: dict[str, tuple[Reason, Callable[[], bytes]]] = {
    "a billion pixels a side": (
        Reason.TOO_MANY_PIXELS,
        lambda: b"\xff\x0a" + (0 | 3 << 1 | (2**30 - 1) << 3 | 1 << 33).to_bytes(9, "little"),
    ),
    "thousands of channels": (
        Reason.TOO_MANY_PIXELS,
        lambda: write_header(2000, 1999, extra=((3, 2), (4095, 12), *[(1, 1)] * 4096)),
    ),
    "a header that ends early": (Reason.TRUNCATED, lambda: write_header(2000, 1999)[:6]),
    "a name that ends early": (Reason.TRUNCATED, lambda: write_header(2000, 1999, extra=((3, 2), (4095, 12)))),
    "an animation": (Reason.ANIMATED, lambda: encode(np.zeros((2, 40, 40, 3), np.uint8))),
    "floating-point samples": (Reason.UNSUPPORTED_FORMAT, lambda: write_header(95, 61, depth=FLOAT)),
    "colours for printing": (Reason.UNSUPPORTED_FORMAT, lambda: write_header(95, 61, extra=CMYK)),
    "no codestream": (Reason.TRUNCATED, lambda: CONTAINER),
    "a codestream without its signature": (Reason.UNDECODABLE, lambda: wrap(b"none")),
    "two codestreams": (Reason.UNDECODABLE, lambda: wrap(make_bare(), write_box(b"jxlc", make_bare()))),
    "a part behind the last one": (Reason.UNDECODABLE, lambda: split(LAST, 1)),
    "parts in another order": (Reason.UNDECODABLE, lambda: split(1, LAST)),
    "a part that is missing": (Reason.UNDECODABLE, lambda: split(0, LAST | 2)),
    "no last part": (Reason.TRUNCATED, lambda: split(0, 1)),
    "a part without a number": (Reason.UNDECODABLE, lambda: CONTAINER + write_box(b"jxlp", b"\x80")),
    "a part and a whole": (Reason.UNDECODABLE, lambda: split(0, 1) + write_box(b"jxlc", make_bare())),
    "thousands of boxes": (Reason.UNDECODABLE, lambda: CONTAINER + 5000 * write_box(b"free", b"")),
    "a box of three bytes": (Reason.UNDECODABLE, lambda: CONTAINER + b"\0\0\0\3jxlc"),
    "a file cut in its pixels": (Reason.TRUNCATED, lambda: wrap(make_bare())[:-100]),
}


@pytest.mark.parametrize("name", CASES)
def test_hostile_headers_are_refused_without_decoding(name: str) -> None:
    """Each file has the one reason that its fault has."""
    reason, make = CASES[name]
    with pytest.raises(Unscorable) as refusal:
        probe_image(make())
    assert refusal.value.reason is reason, refusal.value.detail


def cut(sandbox: Sandbox, data: bytes) -> np.ndarray | Unscorable:
    """Return the crop of the whole picture, or the reason."""
    try:
        info = probe_image(data)
    except Unscorable as refusal:
        return refusal
    ((_, crop),) = sandbox.crop([EncodedFace(data, info, Window(0, 0, info.width, info.height))])
    return crop


@pytest.mark.parametrize("lossless", [True, False])
def test_no_truncated_file_has_pixels(sandbox: Sandbox, lossless: bool) -> None:  # noqa: FBT001 - parametrized
    """Wherever a bare codestream ends early, its decoder reports it."""
    data = make_bare(lossless=lossless)
    assert isinstance(cut(sandbox, data), np.ndarray)
    for end in np.linspace(2, len(data) - 1, 40).astype(int):
        assert isinstance(cut(sandbox, data[:end]), Unscorable), end


@pytest.mark.parametrize("lossless", [True, False])
def test_damaged_files_are_cut_or_refused_in_the_sandbox(sandbox: Sandbox, lossless: bool) -> None:  # noqa: FBT001 - parametrized
    """The sandbox answers for each damaged file with a crop or a typed reason, and keeps working."""
    data, rng = make_bare(lossless=lossless), np.random.default_rng(4)
    for number in range(60):
        changed = bytearray(data)
        changed[int(rng.integers(2, len(data) if number % 2 else 24))] ^= 1 << int(rng.integers(8))
        assert isinstance(cut(sandbox, bytes(changed)), Unscorable | np.ndarray)
    assert isinstance(cut(sandbox, data), np.ndarray)


def test_a_tiny_file_of_a_huge_picture_needs_its_memory(starter: Bundle) -> None:
    """A flat picture of 36 megapixels in 8 KB is decoded only where the memory that it may take is available."""
    data = encode(np.zeros((6000, 6000, 3), np.uint8), effort=1)
    assert len(data) < 10_000
    for megabytes, outcome in ((500, Unscorable), (1500, np.ndarray)):
        with closing(
            Sandbox(starter.folder, None, starter.manifest.preprocess, 1, memory_bytes=megabytes << 20)
        ) as one:
            assert isinstance(cut(one, data), outcome)
