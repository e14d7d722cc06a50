"""The files of a network, and compressed ones."""

import gzip
from pathlib import PurePosixPath

import pytest

from ingest import network_files
from ingest.network_files import list_network_files, unpack


@pytest.mark.parametrize(
    ("graph", "files"),
    [
        ("a/model.xml", ["a/model.xml", "a/model.bin"]),
        ("a/model.xml.gz", ["a/model.xml.gz", "a/model.bin.gz"]),
        ("a/model.tflite", ["a/model.tflite"]),
        ("a/model.onnx", ["a/model.onnx"]),
    ],
)
def test_files_of_a_network(graph: str, files: list[str]) -> None:
    """OpenVINO's weights stand beside the graph; other formats have one file."""
    assert [str(file) for file in list_network_files(PurePosixPath(graph))] == files


def test_a_compressed_file_is_read_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzip file gives its content; one that is cut off, too large when unpacked, or none is refused."""
    packed = gzip.compress(b"<net/>" * 1000)
    assert unpack(packed) == b"<net/>" * 1000
    with pytest.raises(ValueError, match="cut off"):
        unpack(packed[:-9])
    monkeypatch.setattr(network_files, "MAX_NETWORK_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        unpack(packed)
    with pytest.raises(ValueError, match="gzip"):
        unpack(b"<net/>")
