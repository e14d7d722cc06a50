"""The compressed graphs of bundles."""

import gzip
import zlib

import pytest

from scorer.engines import openvino


def test_a_compressed_graph_is_read_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzip file gives its content; one that is cut off, too large when unpacked, or none is refused."""
    packed = gzip.compress(b"<net/>" * 1000)
    assert openvino.unpack(packed) == b"<net/>" * 1000
    with pytest.raises(ValueError, match="cut off"):
        openvino.unpack(packed[:-9])
    monkeypatch.setattr(openvino, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        openvino.unpack(packed)
    with pytest.raises(zlib.error):
        openvino.unpack(b"<net/>")
