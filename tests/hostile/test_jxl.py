"""Hostile JPEG XL files: each gets one typed reason, before a decoder reads it where boxes or the header are wrong."""

from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest

from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.bundle import Bundle
from tests.ingest.formats.heif_files import make_picture
from tests.ingest.formats.jxl_files import CONTAINER, encode, wrap, write_box, write_header, write_size

LAST, BARE = 1 << 31, encode(make_picture())


def split(*numbers: int) -> bytes:
    """Return a container with a part of a codestream for each number."""
    return CONTAINER + b"".join(write_box(b"jxlp", number.to_bytes(4, "big") + b"\xff\x0a") for number in numbers)


CASES: dict[str, tuple[Reason, Callable[[], bytes]]] = {
    "a billion pixels a side": (
        Reason.TOO_MANY_PIXELS,
        lambda: b"\xff\x0a" + (3 << 1 | (2**30 - 1) << 3 | 1 << 33).to_bytes(9, "little"),
    ),
    "thousands of channels": (
        Reason.TOO_MANY_PIXELS,
        lambda: write_header(write_size(500, 499), extra=((3, 2), (4095, 12), *[(1, 1)] * 4096)),
    ),
    "a header that ends early": (
        Reason.TRUNCATED,
        lambda: write_header(write_size(61, 95), extra=((3, 2), (4095, 12))),
    ),
    "an animation": (Reason.ANIMATED, lambda: encode(np.zeros((2, 40, 40, 3), np.uint8))),
    "floating-point samples": (Reason.UNSUPPORTED_FORMAT, lambda: encode(np.zeros((40, 40), np.float32))),
    "colours for printing": (
        Reason.UNSUPPORTED_FORMAT,
        lambda: write_header(write_size(61, 95), extra=((1, 2), (0, 1), (2, 2), (2, 4), (0, 7))),
    ),
    "no codestream": (Reason.TRUNCATED, lambda: CONTAINER),
    "a codestream without its signature": (Reason.UNDECODABLE, lambda: wrap(b"none")),
    "two codestreams": (Reason.UNDECODABLE, lambda: wrap(BARE, write_box(b"jxlc", BARE))),
    "a part behind the last one": (Reason.UNDECODABLE, lambda: split(LAST, 1)),
    "parts in another order": (Reason.UNDECODABLE, lambda: split(1, LAST)),
    "a part that is missing": (Reason.UNDECODABLE, lambda: split(0, LAST | 2)),
    "a part without a number": (Reason.TRUNCATED, lambda: CONTAINER + write_box(b"jxlp", b"")),
    "thousands of boxes": (Reason.UNDECODABLE, lambda: CONTAINER + 5000 * write_box(b"free", b"")),
    "a box of three bytes": (Reason.UNDECODABLE, lambda: CONTAINER + b"\0\0\0\3jxlc"),
    "a file cut in its pixels": (Reason.TRUNCATED, lambda: wrap(BARE)[:-100]),
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
def test_no_truncated_codestream_has_pixels(sandbox: Sandbox, *, lossless: bool) -> None:
    """Wherever a bare codestream ends early, its header or its decoder is refused."""
    data = encode(make_picture(), lossless=lossless)
    assert isinstance(cut(sandbox, data), np.ndarray)
    for end in np.linspace(2, len(data) - 1, 40).astype(int):
        assert isinstance(cut(sandbox, data[:end]), Unscorable), end


def test_a_tiny_file_of_a_huge_picture_needs_its_memory(starter: Bundle) -> None:
    """A flat picture of 36 megapixels in 8 KB is decoded only where the memory that it may take is available."""
    data, preprocess = encode(np.zeros((6000, 6000, 3), np.uint8), effort=1), starter.manifest.preprocess
    assert len(data) < 10_000
    for megabytes, outcome in ((500, Unscorable), (1500, np.ndarray)):
        with closing(Sandbox(starter.folder, None, preprocess, 1, memory_bytes=megabytes << 20)) as sandbox:
            assert isinstance(cut(sandbox, data), outcome)
