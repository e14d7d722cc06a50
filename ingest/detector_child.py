"""A decoding process: finds, cuts and shows faces, so that an image that crashes a decoder affects no other process.

`ingest.detector_pool` starts it as `python -m ingest.detector_child`, with a socket as standard input and memory as
standard error. The first frame (`ingest.jobs`) states what to load; the answer is {"ready": true} or {"error": reason}.
Each further frame is a job. The process exits when the socket closes.

During a job, the process may take as much additional memory and CPU time as `ingest.costs` estimates.
"""

import ctypes
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ingest.costs import BATCH_IMAGES, compute_cpu_limit_s, estimate_memory, make_memory_refusal
from ingest.dali import FaceCropper
from ingest.decode_batches import FaceGroup
from ingest.detect import DetectorSpec, load_detector
from ingest.jobs import Kind, read_job, receive_frame, reduce_size, send_frame
from ingest.probe import EncodedFace
from ingest.reasons import Unscorable
from ingest.reference import decode_upright
from ingest.spec import PreprocessSpec

MAX_FRAME_BYTES = 1 << 30
MESSAGES_BYTES = 1 << 20  # of printed messages, which are kept in memory
LARGE_BYTES = 256 << 20  # after a larger job, the memory is returned to the system at once
GRACE_S = 1.0  # the parent's timeout comes first; this process's own is for a parent that crashed
_PAGE = os.sysconf("SC_PAGE_SIZE")

Answer = tuple[dict[str, Any], bytes]


class _Decoder:
    """The detector and the cropper that the setup states, run within limits.

    Raises:
        ValueError: the detector's weights are missing or wrong.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        detector, crops = setup["detector"], setup["crops"]
        self._timeout_s = setup["timeout_s"]
        if detector:
            values: Any = {key: tuple(item) if isinstance(item, list) else item for key, item in detector.items()}
            self._detector = load_detector(Path(setup["folder"]), DetectorSpec(**values), threads=1)
        self._cropper = FaceCropper(PreprocessSpec.from_json(crops), 1, BATCH_IMAGES) if crops else None

    def run_job(self, header: Mapping[str, Any], data: memoryview) -> Answer:
        """Return the answer to a job."""
        kind: Kind = header["kind"]
        work: dict[Kind, Callable[..., Answer]] = {"find": self._find, "cut": self._cut, "show": self._show}
        groups = read_job(header, data)
        memory = estimate_memory(kind, groups)
        try:
            with self._limited(memory, compute_cpu_limit_s(groups)):
                return work[kind](groups, **header["options"])
        except Unscorable as failure:
            return _describe_failure(failure), b""
        except MemoryError:
            return _describe_failure(make_memory_refusal(memory)), b""
        finally:
            if memory >= LARGE_BYTES:
                self._release()

    @contextmanager
    def _limited(self, memory: int, cpu_s: float) -> Iterator[None]:
        size, data = (int(Path("/proc/self/statm").read_text(encoding="ascii").split()[at]) * _PAGE for at in (0, 5))
        space, hard = resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_DATA)[1]
        if space != resource.RLIM_INFINITY and size + memory > space:
            raise make_memory_refusal(memory)
        limit = data + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        # No handler is set for the alarms: they kill the process wherever it hangs.
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s + GRACE_S)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            yield
        finally:
            for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
                signal.setitimer(timer, 0)
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    def _find(self, groups: list[FaceGroup], min_face_px: float | None) -> Answer:
        (image,) = groups
        found = self._detector.detect(image.data, image.info, min_face_px)
        return {"faces": [[*face.box.as_tuple(), face.confidence] for face in found]}, b""  # JSON keeps numbers exactly

    def _cut(self, groups: list[FaceGroup]) -> Answer:
        if self._cropper is None:
            message = "this process has no crop specification"
            raise AssertionError(message)
        faces = [EncodedFace(g.data, g.info, window) for g in groups for window in g.windows.values()]
        crops = self._cropper.crop(faces)
        failures = [_describe_failure(crop) if isinstance(crop, Unscorable) else None for crop in crops]
        whole = [crop for crop in crops if not isinstance(crop, Unscorable)]
        return {"crops": failures}, np.stack(whole).tobytes() if whole else b""

    def _show(self, groups: list[FaceGroup], max_side: int) -> Answer:
        (image,) = groups
        (window,) = image.windows.values()
        upright = decode_upright(image.data)
        part = Image.fromarray(upright[window.top :, window.left :][: window.height, : window.width])
        shown = part.resize(reduce_size(part.size, max_side), reducing_gap=2.0)
        return {}, shown.tobytes()

    def _release(self) -> None:
        if self._cropper:
            self._cropper.release()
        ctypes.CDLL(None).malloc_trim(0)


def _describe_failure(failure: Unscorable) -> dict[str, Any]:
    return {"reason": failure.reason, "detail": failure.detail}


def main() -> None:
    """Answer frames until the socket closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the service, which finishes its images first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain a person's image
    resource.setrlimit(resource.RLIMIT_FSIZE, (MESSAGES_BYTES, MESSAGES_BYTES))  # Python ignores SIGXFSZ
    with suppress(OSError):  # when memory runs out, the kernel kills this process before the service
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    channel = socket.socket(fileno=0)
    try:
        setup, _ = receive_frame(channel.recv_into, MAX_FRAME_BYTES)
        try:
            decoder = _Decoder(setup)
        except ValueError as error:
            send_frame(channel, {"error": str(error)})
            return
        send_frame(channel, {"ready": True})
        while True:
            header, data = receive_frame(channel.recv_into, MAX_FRAME_BYTES)
            with suppress(OSError):
                os.ftruncate(2, 0)  # the printed messages belong to earlier images
            send_frame(channel, *decoder.run_job(header, data))
    except (EOFError, ConnectionError):
        return  # the service has exited, or no longer waits for this answer


if __name__ == "__main__":
    main()
