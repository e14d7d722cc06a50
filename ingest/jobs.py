"""The messages between the sandbox and its processes.

A frame is two big-endian lengths, a JSON object and bytes. The kinds of jobs: find the faces of one image, cut windows
out of several images, show a window of one image at a reduced size; state the facts of a clip, and find and cut the
faces of its sampled frames.
"""

import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ingest.decode_batches import FaceGroup
from ingest.detect import DetectorSpec
from ingest.probe import ImageInfo
from ingest.spec import PreprocessSpec, Window

Kind = Literal["find", "cut", "show", "inspect", "sample"]

_LENGTHS = struct.Struct(">II")


def send_frame(channel: socket.socket, header: Mapping[str, Any], *parts: bytes) -> None:
    """Write one frame, whose bytes are the concatenated `parts`.

    Raises:
        OSError: the other process has closed its socket, or does not read within the socket's time limit.
    """
    text = json.dumps(header).encode()
    channel.sendall(_LENGTHS.pack(len(text), sum(map(len, parts))) + text)
    for part in parts:
        channel.sendall(part)


def receive_frame(receive: Callable[[memoryview], int], max_bytes: int) -> tuple[dict[str, Any], memoryview]:
    """Read one frame.

    Args:
        receive: fills a part of a buffer and returns the number of bytes, 0 at the end.
        max_bytes: a longer frame is refused.

    Raises:
        EOFError: the other process has closed its socket.
        ValueError: the bytes are no frame, or the frame is too long.
        OSError: raised by `receive`.
    """
    header_size, data_size = _LENGTHS.unpack(_receive_exactly(receive, _LENGTHS.size))
    if header_size + data_size > max_bytes:
        message = f"a frame of {header_size + data_size} bytes; the limit is {max_bytes}"
        raise ValueError(message)
    header = json.loads(bytes(_receive_exactly(receive, header_size)))
    if not isinstance(header, dict):
        message = "a frame without an object"
        raise ValueError(message)  # noqa: TRY004 - bad bytes, not a caller's mistake
    return header, _receive_exactly(receive, data_size)


def _receive_exactly(receive: Callable[[memoryview], int], size: int) -> memoryview:
    buffer = memoryview(bytearray(size))
    view = buffer
    while view:
        count = receive(view)
        if not count:
            raise EOFError
        view = view[count:]
    return buffer


def describe_setup(
    folder: Path, detector: DetectorSpec | None, crops: PreprocessSpec | None, timeout_s: float, *, cuts_images: bool
) -> dict[str, Any]:
    """Return the JSON object of the first frame; see `Sandbox`."""
    return {
        "folder": str(folder),
        "detector": detector and asdict(detector),
        "crops": crops and asdict(crops),
        "cuts_images": cuts_images,
        "timeout_s": timeout_s,
    }


def describe_job(kind: Kind, groups: Sequence[FaceGroup], **options: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a job's JSON object; the frame's bytes are the concatenated images."""
    images = [
        {
            "info": asdict(group.info),
            "size": len(group.data),
            "windows": [[w.left, w.top, w.width, w.height] for w in group.windows.values()],
        }
        for group in groups
    ]
    return {"kind": kind, "images": images, "options": options}


def reduce_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return the size at which an image is shown: the same proportions, no side longer than `max_side`."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_job(header: Mapping[str, Any], data: memoryview) -> list[FaceGroup]:
    """Return the images of a job; their windows are numbered from 0."""
    groups, start = [], 0
    for image in header["images"]:
        windows = {number: Window(*window) for number, window in enumerate(image["windows"])}
        part = bytes(data[start : start + image["size"]])
        groups.append(FaceGroup(part, ImageInfo(**image["info"]), windows))
        start += image["size"]
    return groups
