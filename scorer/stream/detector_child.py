"""One process that finds faces, so that an image which kills or hangs a decoder takes nothing else with it.

`scorer.stream.detector_pool` starts it as `python -m scorer.stream.detector_child` with a socket for standard input.
Frames go both ways: two big-endian lengths, a JSON object, bytes. The first tells which detector to load and is
answered with {"ready": true}; each further one is an image. When the socket closes, the process ends.
"""

import json
import resource
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ingest.detect import DetectorSpec, FaceDetector, load_detector
from ingest.probe import ImageInfo
from ingest.reasons import Unscorable

# Address space, of which OpenVINO and NumPy reserve more than they use. The largest admitted image must fit.
MEMORY_BYTES = 4 << 30
MAX_FRAME_BYTES = 1 << 30
GRACE_S = 1.0  # the parent's clock comes first; this process's own is for a parent that died
_LENGTHS = struct.Struct(">II")


def send_frame(channel: socket.socket, header: Mapping[str, Any], data: bytes = b"") -> None:
    """Write one frame.

    Raises:
        OSError: nobody reads it, or not within the socket's time limit.
    """
    text = json.dumps(header).encode()
    channel.sendall(_LENGTHS.pack(len(text), len(data)) + text)
    if data:
        channel.sendall(data)


def receive_frame(receive: Callable[[memoryview], int], max_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Read one frame.

    Args:
        receive: fills part of a buffer and returns how many bytes, 0 at the end.
        max_bytes: a longer frame is refused.

    Raises:
        EOFError: the other side is gone.
        ValueError: what came is no frame.
        OSError: as `receive` raises it.
    """
    header_size, data_size = _LENGTHS.unpack(_receive_exactly(receive, _LENGTHS.size))
    if header_size + data_size > max_bytes:
        message = f"a frame of {header_size + data_size} bytes; the limit is {max_bytes}"
        raise ValueError(message)
    header = json.loads(_receive_exactly(receive, header_size))
    if not isinstance(header, dict):
        message = "a frame without an object"
        raise ValueError(message)  # noqa: TRY004 - bad bytes, not a caller's mistake
    return header, _receive_exactly(receive, data_size)


def _receive_exactly(receive: Callable[[memoryview], int], size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = receive(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(buffer)


def describe_setup(folder: Path, spec: DetectorSpec, timeout_s: float) -> dict[str, Any]:
    """Return the first frame's JSON object."""
    return {"folder": str(folder), "spec": asdict(spec), "timeout_s": timeout_s}


def main() -> None:
    """Answer frames until the socket closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the service, which finishes its images first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold somebody's picture
    with suppress(OSError):  # where memory runs out this process goes before the service, if the system lets it say so
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    channel = socket.socket(fileno=0)
    try:
        setup, _ = receive_frame(channel.recv_into, MAX_FRAME_BYTES)
        detector = load_detector(Path(setup["folder"]), _read_spec(setup["spec"]), threads=1)
        send_frame(channel, {"ready": True})
        while True:
            header, data = receive_frame(channel.recv_into, MAX_FRAME_BYTES)
            # Nothing handles the alarm, so that it ends the process wherever it hangs.
            signal.setitimer(signal.ITIMER_REAL, setup["timeout_s"] + GRACE_S)
            answer = _find_faces(detector, data, ImageInfo(**header["info"]), header["min_face_px"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            send_frame(channel, answer)
    except (EOFError, ConnectionError):
        return  # the service is gone, or does not want this answer any more


def _read_spec(fields: dict[str, Any]) -> DetectorSpec:
    values: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in fields.items()}
    return DetectorSpec(**values)  # JSON has no tuples


def _find_faces(detector: FaceDetector, data: bytes, info: ImageInfo, min_face_px: float | None) -> dict[str, Any]:
    try:
        found = detector.detect(data, info, min_face_px)
    except Unscorable as failure:
        return {"reason": failure.reason, "detail": failure.detail}
    return {"faces": [[*face.box.as_tuple(), face.confidence] for face in found]}  # JSON keeps numbers exactly


if __name__ == "__main__":
    main()
