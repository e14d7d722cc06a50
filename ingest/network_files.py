"""The files of a network: OpenVINO's graph and weights, each also compressed, or one file of another format."""

import lzma
from pathlib import PurePath
from typing import TypeVar

MAX_NETWORK_BYTES = 2**31
MAX_UNPACKING_BYTES = 2**24  # of memory beside the content, most of it a dictionary
# `lc`, `lp` and `pb` suit numbers of two bytes: the starter's networks are 2 % smaller than with LZMA's defaults.
_FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**23, "lc": 0, "lp": 1, "pb": 1},
]
AnyPath = TypeVar("AnyPath", bound=PurePath)


def list_network_files(graph: AnyPath) -> tuple[AnyPath, ...]:
    """Return the files of a network: model.xml and model.bin, model.xml.xz and model.bin.xz, or the graph alone."""
    weights = graph.with_name(graph.name.replace(".xml", ".bin"))
    return (graph,) if weights == graph else (graph, weights)


def pack(content: bytes) -> bytes:
    """Return `content` as an xz file; it has no date."""
    return lzma.compress(content, filters=_FILTERS)


def unpack(data: bytes) -> bytes:
    """Return the content of an xz file.

    Raises:
        ValueError: it is no xz file, is cut off, needs too much memory, or is larger than a network may be.
    """
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_UNPACKING_BYTES)
    try:
        content = stream.decompress(data, MAX_NETWORK_BYTES)
    except lzma.LZMAError as error:
        message = f"the file is not compressed by xz within {MAX_UNPACKING_BYTES} bytes of memory: {error}"
        raise ValueError(message) from error
    if not stream.eof:
        message = f"the file is cut off or has more than {MAX_NETWORK_BYTES} bytes"
        raise ValueError(message)
    return content
