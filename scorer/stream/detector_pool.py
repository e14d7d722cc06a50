"""The face detector in processes of its own: a picture that kills a decoder costs itself, not the service."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ingest.detect import Detection, DetectorSpec
from ingest.device import require_instructions
from ingest.probe import ImageInfo
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox
from scorer.stream.detector_child import describe_setup, receive_frame, send_frame
from scorer.stream.logs import get_logger
from scorer.stream.patience import Stopped

MAX_ANSWER_BYTES = 1 << 20
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 1.0
START_TRIES = 3
TRIES = 2
# What Python and its libraries need to start; the service's secrets lie in other variables and stay out.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
# What decides how its libraries compute: a process that runs other kernels than its parent finds other last bits.
_NUMERIC = ("OPENBLAS_", "OMP_", "MKL_", "NPY_", "ONEDNN_", "DNNL_", "OV_", "OPENVINO_", "GLIBC_TUNABLES")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

log = get_logger(__name__)


class DetectorBroken(Exception):
    """No detector process can be started: this is about the machine or the bundle, not about an image."""


class _ChildFailed(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class DetectorPool:
    """A `FaceDetector` of `processes` processes; as many threads find faces at once, further ones wait.

    An image on which a process dies or overruns `timeout_s` is tried once more, in a fresh process; then it is
    `undecodable` or `timed_out`.

    Args:
        folder: the bundle, verified.
        spec: its detector.
        processes: how many; each starts when it is first needed, or by `start`.
        timeout_s: how long one image may take.

    Raises:
        DeviceUnavailable: see `require_instructions`; no process would start.
    """

    def __init__(self, folder: Path, spec: DetectorSpec, processes: int, timeout_s: float) -> None:
        require_instructions()
        self._setup = describe_setup(folder.absolute(), spec, timeout_s)
        self._processes, self._timeout_s = processes, timeout_s
        self._idle: SimpleQueue[_Child | None] = SimpleQueue()  # None: a place whose process is yet to be started
        for _ in range(processes):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._living: set[_Child] = set()
        self._closed = False

    def start(self) -> None:
        """Start every process now.

        Raises:
            DetectorBroken: one cannot be started.
            Stopped: the pool was closed.
        """
        places = [self._idle.get() for _ in range(self._processes)]
        with ThreadPoolExecutor(self._processes) as starters:
            starts = [starters.submit(self._ensure_child, child) for child in places]
        for start in starts:
            self._idle.put(None if start.exception() else start.result())
        for start in starts:
            start.result()

    def detect(self, data: bytes, info: ImageInfo, min_face_px: float | None = None) -> list[Detection]:
        """Return the faces of one image; see `FaceDetector.detect`.

        Raises:
            Unscorable: undecodable or timed_out.
            DetectorBroken: no process can be started.
            Stopped: the pool was closed.
        """
        child = self._idle.get()
        try:
            for tries in range(1, TRIES + 1):
                if self._closed:
                    raise Stopped
                child = self._ensure_child(child)
                try:
                    answer = child.ask(data, info, min_face_px, self._timeout_s)
                except _ChildFailed as error:
                    failure = error
                    self._bury(child)
                    child = None
                    if not self._closed:
                        log.warning("a detector process failed on an image", why=failure.detail, tries=tries)
                except BaseException:  # the conversation broke off in the middle
                    self._bury(child)
                    child = None
                    raise
                else:
                    if isinstance(answer, Unscorable):
                        raise answer
                    return answer
        finally:
            self._idle.put(child)
        raise Unscorable(failure.reason, f"{failure.detail}, in {TRIES} processes")

    def close(self) -> None:
        """End every process; callers that wait or are being served get `Stopped`."""
        with self._lock:
            self._closed = True
            living = list(self._living)
        for child in living:
            child.kill()
        places = [self._idle.get() for _ in range(self._processes)]  # who is being served comes back at once
        for idle in filter(None, places):
            self._bury(idle)
        for _ in range(self._processes):
            self._idle.put(None)

    def _ensure_child(self, child: "_Child | None") -> "_Child":
        return child or self._start_child()

    def _start_child(self) -> "_Child":
        for _ in range(START_TRIES):
            with self._lock:
                if self._closed:
                    raise Stopped
                child = _Child()
                self._living.add(child)
            try:
                child.prepare(self._setup)
            except _ChildFailed as error:
                failure = error
                self._bury(child)
            else:
                return child
        if self._closed:
            raise Stopped
        message = f"no detector process starts ({failure.detail}); standard error says why; verify the bundle"
        raise DetectorBroken(message)

    def _bury(self, child: "_Child") -> None:
        child.kill()
        child.hang_up()
        with self._lock:
            self._living.discard(child)


def _choose_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_NUMERIC)}


class _Child:
    """One process and the socket to it; used by one thread at a time, but for `kill`."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "scorer.stream.detector_child"],  # -P: no module of the working folder
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_choose_environment() | _ONE_THREAD,
            )

    def prepare(self, setup: dict[str, Any]) -> None:
        """Let it load the detector."""
        if not self._exchange(setup, b"", START_TIMEOUT_S).get("ready"):
            raise _ChildFailed(Reason.UNDECODABLE, "it did not get ready")

    def ask(
        self, data: bytes, info: ImageInfo, min_face_px: float | None, timeout_s: float
    ) -> list[Detection] | Unscorable:
        """Return its answer to an image."""
        answer = self._exchange({"info": asdict(info), "min_face_px": min_face_px}, data, timeout_s)
        try:
            if "reason" in answer:
                return Unscorable(Reason(answer["reason"]), str(answer["detail"]))
            return [Detection(FaceBox(*map(float, face[:4])), float(face[4])) for face in answer["faces"]]
        except (LookupError, TypeError, ValueError) as error:  # who decodes strangers' bytes is not to be trusted
            raise _ChildFailed(Reason.UNDECODABLE, "the detector's process gave no answer that makes sense") from error

    def kill(self) -> None:
        """End the process, whatever it does, from any thread; who waits for its answer is told."""
        self._process.kill()
        self._process.wait()

    def hang_up(self) -> None:
        """Close the socket; for the thread that uses it."""
        self._channel.close()

    def _exchange(self, header: dict[str, Any], data: bytes, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        try:
            self._channel.settimeout(timeout_s)
            send_frame(self._channel, header, data)
            return receive_frame(self._receive_until(deadline), MAX_ANSWER_BYTES)[0]
        except TimeoutError:
            raise _ChildFailed(Reason.TIMED_OUT, f"the detector gave no answer within {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            status = self._await_end()
            reason = Reason.TIMED_OUT if status == -signal.SIGALRM else Reason.UNDECODABLE
            raise _ChildFailed(reason, f"the detector's process ended with status {status}") from error

    def _await_end(self) -> int:
        try:
            return self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # what it said made no sense, but it lives
            self._process.kill()
            return self._process.wait()

    def _receive_until(self, deadline: float) -> Callable[[memoryview], int]:
        def receive(buffer: memoryview) -> int:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._channel.settimeout(left)
            return self._channel.recv_into(buffer)

        return receive
