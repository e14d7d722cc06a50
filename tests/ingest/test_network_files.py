"""The files of a network, and compressed ones."""

import lzma
from pathlib import PurePosixPath

import pytest

from ingest import network_files
from ingest.network_files import list_network_files, pack, unpack


@pytest.mark.parametrize(
    ("graph", "files"),
    [
        ("a/model.xml", ["a/model.xml", "a/model.bin"]),
        ("a/model.xml.xz", ["a/model.xml.xz", "a/model.bin.xz"]),
        ("a/model.tflite", ["a/model.tflite"]),
        ("a/model.onnx", ["a/model.onnx"]),
    ],
)
def test_files_of_a_network(graph: str, files: list[str]) -> None:
    """OpenVINO's weights stand beside the graph; other formats have one file."""
    assert [str(file) for file in list_network_files(PurePosixPath(graph))] == files


def test_a_compressed_file_is_read_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An xz file gives its content; one that is cut off, needs too much memory, or is none is refused."""
    packed = pack(b"<net/>" * 1000)
    assert unpack(packed) == b"<net/>" * 1000
    with pytest.raises(ValueError, match="cut off"):
        unpack(packed[:-9])
    monkeypatch.setattr(network_files, "MAX_NETWORK_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        unpack(packed)
    with pytest.raises(ValueError, match="not compressed by xz"):
        unpack(b"<net/>" * 100)
    with pytest.raises(ValueError, match="Memory usage limit exceeded"):
        unpack(lzma.compress(b"<net/>", preset=9))  # a dictionary of 64 MiB
