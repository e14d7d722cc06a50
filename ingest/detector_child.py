"""One process that decodes: it finds, cuts and shows faces, so that what harms a decoder harms nothing else.

`ingest.detector_pool` starts it as `python -m ingest.detector_child` with a socket for standard input and memory for
standard error. The first frame (`ingest.jobs`) tells what to load and is answered with {"ready": true}, or
{"error": why}; each further one is a job. When the socket closes, the process ends.

While a job lasts, the process may take as much memory and CPU time as `ingest.costs` estimates, beyond what it has.
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

from ingest.costs import BATCH_IMAGES, allow_cpu_s, estimate_memory, lack_memory
from ingest.dali import FaceCropper
from ingest.decode_batches import FaceGroup
from ingest.detect import DetectorSpec, load_detector
from ingest.jobs import Kind, read_job, receive_frame, reduce_size, send_frame
from ingest.probe import EncodedFace
from ingest.reasons import Unscorable
from ingest.reference import decode_upright
from ingest.spec import PreprocessSpec

MAX_FRAME_BYTES = 1 << 30
MESSAGES_BYTES = 1 << 20  # what decoders print is kept in memory
LARGE_BYTES = 256 << 20  # what so large an image took is given back at once
GRACE_S = 1.0  # the parent's clock comes first; this process's own is for a parent that died
_PAGE = os.sysconf("SC_PAGE_SIZE")

Answer = tuple[dict[str, Any], bytes]


class _Decoder:
    """The detector and the cropper, whichever the setup names, and the limits under which they work.

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

    def answer(self, header: Mapping[str, Any], data: memoryview) -> Answer:
        """Return the answer to a job."""
        kind: Kind = header["kind"]
        work: dict[Kind, Callable[..., Answer]] = {"find": self._find, "cut": self._cut, "show": self._show}
        groups = read_job(header, data)
        memory = estimate_memory(kind, groups)
        try:
            with self._limited(memory, allow_cpu_s(groups)):
                return work[kind](groups, **header["options"])
        except Unscorable as failure:
            return _describe_failure(failure), b""
        except MemoryError:
            return _describe_failure(lack_memory(memory)), b""
        finally:
            if memory >= LARGE_BYTES:
                self._release()

    @contextmanager
    def _limited(self, memory: int, cpu_s: float) -> Iterator[None]:
        size, data = (int(Path("/proc/self/statm").read_text(encoding="ascii").split()[at]) * _PAGE for at in (0, 5))
        space, hard = resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_DATA)[1]
        if space != resource.RLIM_INFINITY and size + memory > space:
            raise lack_memory(memory)
        limit = data + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        # Nothing handles these alarms, so that they end the process wherever it hangs.
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
            message = "this process was not told how to cut"
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
        signal.signal(number, signal.SIG_IGN)  # meant for the service, which finishes its images first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold somebody's picture
    resource.setrlimit(resource.RLIMIT_FSIZE, (MESSAGES_BYTES, MESSAGES_BYTES))  # Python ignores SIGXFSZ
    with suppress(OSError):  # where memory runs out this process goes before the service, if the system lets it say so
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
                os.ftruncate(2, 0)  # what was printed belongs to the images before
            send_frame(channel, *decoder.answer(header, data))
    except (EOFError, ConnectionError):
        return  # the service is gone, or does not want this answer any more


if __name__ == "__main__":
    main()
