"""The files of a network: OpenVINO's graph and weights, each also compressed, or one file of TensorFlow Lite."""

import zlib
from pathlib import PurePath
from typing import TypeVar

MAX_NETWORK_BYTES = 2**31
AnyPath = TypeVar("AnyPath", bound=PurePath)


def list_network_files(graph: AnyPath) -> tuple[AnyPath, ...]:
    """Return the files of a network: model.xml and model.bin, model.xml.gz and model.bin.gz, or model.tflite alone."""
    weights = graph.with_name(graph.name.replace(".xml", ".bin"))
    return (graph,) if weights == graph else (graph, weights)


def unpack(data: bytes) -> bytes:
    """Return the content of a gzip file.

    Raises:
        ValueError: it is no gzip file, is cut off, or is larger than a network may be.
    """
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # of gzip
    try:
        content = stream.decompress(data, MAX_NETWORK_BYTES)
    except zlib.error as error:
        message = "the file is not compressed by gzip"
        raise ValueError(message) from error
    if not stream.eof:
        message = f"the file is cut off or has more than {MAX_NETWORK_BYTES} bytes"
        raise ValueError(message)
    return content
