"""A decoding process: finds, cuts and shows faces and reads metadata, so that what crashes a decoder fails alone.

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ingest.clips import MAX_FACES, ClipFacts, ClipSettings
from ingest.costs import BATCH_IMAGES, compute_cpu_limit_s, estimate_memory, make_memory_refusal
from ingest.crops import encode_crop
from ingest.dali import FaceCropper
from ingest.decode_batches import FaceGroup
from ingest.detect import DetectorSpec, load_detector
from ingest.jobs import Kind, read_job, receive_frame, reduce_size, send_frame
from ingest.probe import EncodedFace
from ingest.provenance.metadata import read_metadata
from ingest.provenance.statements import describe_statements
from ingest.reasons import Reason, Unscorable
from ingest.reference import decode_upright
from ingest.spec import PreprocessSpec, crop_window

MAX_FRAME_BYTES = 1 << 30
MESSAGES_BYTES = 1 << 20  # of printed messages, which are kept in memory
LARGE_BYTES = 256 << 20  # after a larger job, the memory is returned to the system at once
NO_CROPS = "this process has no crop specification"
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
        self._spec = PreprocessSpec.from_json(crops) if crops else None
        self._cropper: FaceCropper | None = None
        if setup["cuts_images"]:
            self._prepare_cropper()
        if setup["trust"] is not None:
            from ingest.provenance.c2pa_manifests import ManifestReader  # noqa: PLC0415 - of an extra

            self._manifests = ManifestReader(setup["trust"])

    def run_job(self, header: Mapping[str, Any], data: memoryview) -> Answer:
        """Return the answer to a job."""
        kind: Kind = header["kind"]
        work: dict[Kind, Callable[..., Answer]] = {
            "find": self._find,
            "cut": self._cut,
            "show": self._show,
            "state": self._state,
            "inspect": self._inspect,
            "sample": self._sample,
        }
        groups = read_job(header, data)
        if kind in {"cut", "sample"}:
            self._prepare_cropper()
        memory = estimate_memory(kind, groups)
        limits = header.get("limits") or {}
        cpu_s, timeout_s = (
            limits.get("cpu_s") or compute_cpu_limit_s(kind, groups),
            limits.get("timeout_s", self._timeout_s),
        )
        try:
            with self._limited(memory, cpu_s, timeout_s):
                return work[kind](groups, **header["options"])
        except Unscorable as failure:
            return _describe_failure(failure), b""
        except MemoryError:
            return _describe_failure(make_memory_refusal(memory)), b""
        finally:
            if memory >= LARGE_BYTES:
                self._release()

    def _prepare_cropper(self) -> None:
        if self._cropper is None and self._spec:
            self._cropper = FaceCropper(self._spec, 1, BATCH_IMAGES)

    @contextmanager
    def _limited(self, memory: int, cpu_s: float, timeout_s: float) -> Iterator[None]:
        size, data = (int(Path("/proc/self/statm").read_text(encoding="ascii").split()[at]) * _PAGE for at in (0, 5))
        space, hard = resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_DATA)[1]
        if space != resource.RLIM_INFINITY and size + memory > space:
            raise make_memory_refusal(memory)
        limit = data + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        # No handler is set for the alarms: they kill the process wherever it hangs.
        signal.setitimer(signal.ITIMER_REAL, timeout_s + GRACE_S)
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
        faces = [[*face.box.as_tuple(), face.confidence, face.sound] for face in found]
        return {"faces": faces}, b""  # JSON keeps numbers exactly

    def _cut(self, groups: list[FaceGroup]) -> Answer:
        if self._cropper is None:
            raise AssertionError(NO_CROPS)
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

    def _state(self, groups: list[FaceGroup]) -> Answer:
        (image,) = groups
        statements = self._manifests.read(image.data, image.info.media_type) + read_metadata(image.data, image.info)
        return {"statements": describe_statements(statements)}, b""

    def _inspect(self, groups: list[FaceGroup]) -> Answer:
        from ingest.video import read_facts  # noqa: PLC0415 - most processes read no clip

        (clip,) = groups
        return {"facts": asdict(read_facts(clip.data, clip.info.media_type))}, b""

    def _sample(
        self,
        groups: list[FaceGroup],
        facts: dict[str, Any],
        settings: dict[str, Any],
        min_face_px: float | None,
    ) -> Answer:
        from ingest.video import Damage, read_frames  # noqa: PLC0415 - most processes read no clip

        if self._cropper is None or self._spec is None:
            raise AssertionError(NO_CROPS)
        (clip,) = groups
        spec, damage = self._spec, Damage()
        frames: list[dict[str, Any]] = []
        encoded: list[bytes] = []
        for frame in read_frames(clip.data, ClipFacts(**facts), ClipSettings(**settings), damage):
            height, width, _ = frame.pixels.shape
            found = self._detector.detect_pixels(frame.pixels, min_face_px)
            windows = [crop_window(face.box, width, height, spec) for face in found]
            faces = [(face, window) for face, window in zip(found, windows, strict=True) if window]
            if len(encoded) + len(faces) > MAX_FACES:
                message = f"the sampled frames have more than {MAX_FACES} faces; sample fewer frames a second"
                raise Unscorable(Reason.TOO_MANY_FACES, message)
            sizes = [min(window.width, window.height) for _, window in faces]
            frames.append(
                {
                    "time_s": frame.time_s,
                    "size": [width, height],
                    "faces": [
                        [*face.box.as_tuple(), face.confidence, size]
                        for (face, _), size in zip(faces, sizes, strict=True)
                    ],
                }
            )
            for window in (window for _, window in faces):
                part = frame.pixels[window.top :, window.left :][: window.height, : window.width]
                encoded.append(encode_crop(self._cropper.resize(np.ascontiguousarray(part))))
        found_damage = _describe_failure(Unscorable(damage.reason, damage.detail)) if damage.detail else None
        answer = {"frames": frames, "sizes": [len(each) for each in encoded], "damage": found_damage}
        return answer, b"".join(encoded)

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
