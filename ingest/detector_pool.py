"""A pool of decoding processes (`ingest.detector_child`). One thread at a time uses each; each starts when needed."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any

from ingest.jobs import receive_frame, send_frame
from ingest.reasons import Reason

MAX_HEADER_BYTES = 1 << 20
START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 1.0
START_TRIES = 3
INVALID_ANSWER = "the decoder's process gave an invalid answer"
_MESSAGE_CHARACTERS = 200
# Variables that Python and its libraries need to start. The service's secrets are in others, which are not passed on.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
# Variables that select numeric kernels: with other kernels than its parent, a process would get other last bits.
_NUMERIC = ("OPENBLAS_", "OMP_", "MKL_", "NPY_", "ONEDNN_", "DNNL_", "OV_", "OPENVINO_", "GLIBC_TUNABLES")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
# DALI takes larger buffers from pools, which it never frees: after one image of 100 megapixels 190 MiB stay allocated.
_NO_POOLS = {"DALI_MALLOC_POOL_THRESHOLD": str(1 << 40)}
_NO_MEMORY = re.compile("MemoryError|bad_alloc|[Cc]annot allocate memory")
_TIMERS = {-signal.SIGALRM: "wall", -signal.SIGPROF: "CPU"}


class SandboxBroken(Exception):
    """No decoding process can be started, because of the machine or the bundle, not of an image."""


class DetectorUnusable(SandboxBroken):
    """The detector's weights are missing or wrong."""


class SandboxClosed(Exception):
    """The sandbox was closed while a call waited or ran."""


class ChildFailed(Exception):
    """A process failed on a job, for `reason`; it must not be used again."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class DetectorPool:
    """At most `processes` processes, each used by one thread at a time; other threads wait.

    Args:
        setup: see `describe_setup`.
        processes: their number.
        timeout_s: the most wall time of one job.
    """

    def __init__(self, setup: dict[str, Any], processes: int, timeout_s: float) -> None:
        self._setup, self._processes, self._timeout_s = setup, processes, timeout_s
        # None is a process that is not started yet. Running ones are used first.
        self._idle: LifoQueue[Child | None] = LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self.closed = False
        weakref.finalize(self, _kill_all, self._children)

    def start(self, count: int) -> None:
        """Start processes until at least `count` run.

        Raises:
            SandboxBroken: a process cannot be started.
            SandboxClosed: the pool was closed.
        """
        idle = [self._idle.get() for _ in range(count)]
        with ThreadPoolExecutor(count) as starters:
            starts = [starters.submit(self._ensure_running, child) for child in idle]
        for start in starts:
            self._idle.put(None if start.exception() else start.result())
        for start in starts:
            start.result()

    @contextmanager
    def acquire(self) -> Iterator["PoolSlot"]:
        """Wait for a process that no other thread uses, and use it for the block."""
        slot = PoolSlot(self._idle.get(), self._ensure_running, self._discard_child, self._timeout_s)
        try:
            yield slot
        finally:
            self._idle.put(slot.child)

    def close(self) -> None:
        """Kill every process; calls that wait or run raise `SandboxClosed`."""
        with self._lock:
            self.closed = True
            children = list(self._children)
        for child in children:
            child.kill()
        idle = [self._idle.get() for _ in range(self._processes)]  # a killed process returns to the queue at once
        for child in filter(None, idle):
            self._discard_child(child)
        for _ in range(self._processes):
            self._idle.put(None)

    def _ensure_running(self, child: "Child | None") -> "Child":
        if self.closed:
            raise SandboxClosed
        return child or self._start_child()

    def _start_child(self) -> "Child":
        for _ in range(START_TRIES):
            with self._lock:
                if self.closed:
                    raise SandboxClosed
                child = Child()
                self._children.add(child)
            try:
                child.prepare(self._setup)
            except ChildFailed as error:
                failure = error
                self._discard_child(child)
            except DetectorUnusable:
                self._discard_child(child)
                raise
            else:
                return child
        if self.closed:
            raise SandboxClosed
        message = f"no decoding process starts ({failure.detail}); verify the bundle and the memory limit"
        raise SandboxBroken(message)

    def _discard_child(self, child: "Child") -> None:
        child.kill()
        child.close_channel()
        with self._lock:
            self._children.discard(child)


class PoolSlot:
    """One of the pool's processes while a thread uses it; a new process replaces it after a failure."""

    def __init__(
        self,
        child: "Child | None",
        ensure: Callable[["Child | None"], "Child"],
        discard_child: Callable[["Child"], None],
        timeout_s: float,
    ) -> None:
        self.child, self._ensure_running, self._discard_child, self._timeout_s = child, ensure, discard_child, timeout_s

    def run_job(
        self, job: dict[str, Any], data: Sequence[bytes], max_bytes: int, timeout_s: float | None = None
    ) -> tuple[dict[str, Any], memoryview]:
        """Return the answer to a job: its JSON object and at most `max_bytes` bytes. `timeout_s` replaces the pool's.

        Raises:
            ChildFailed: the process exited, exceeded its time or gave no valid answer; it was killed.
            SandboxBroken, SandboxClosed: see the pool.
        """
        child = self.child = self._ensure_running(self.child)
        try:
            return child.exchange(job, data, MAX_HEADER_BYTES + max_bytes, timeout_s or self._timeout_s)
        except BaseException:  # the next frame would not be the next answer
            self.discard()
            raise

    def discard(self) -> None:
        """Kill the process, if there is one."""
        if self.child:
            self._discard_child(self.child)
        self.child = None


def _kill_all(children: set["Child"]) -> None:
    for child in list(children):
        child.kill()
        child.close_channel()


def _choose_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_NUMERIC)}


class Child:
    """One process and the socket to it; used by one thread at a time, but for `kill`."""

    def __init__(self) -> None:
        self._channel, child_end = socket.socketpair()
        self._messages = os.memfd_create("decoder-messages")  # what decoders print
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ingest.detector_child"],  # -P: no module of the working folder
                stdin=child_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                env=_choose_environment() | _ONE_THREAD | _NO_POOLS,
            )

    def prepare(self, setup: dict[str, Any]) -> None:
        """Make the process load the detector and the cropper.

        Raises:
            ChildFailed: it exited, or gave no valid answer.
            DetectorUnusable: it cannot load the detector.
        """
        answer, _ = self.exchange(setup, [], MAX_HEADER_BYTES, START_TIMEOUT_S)
        if "error" in answer:
            raise DetectorUnusable(str(answer["error"]))
        if not answer.get("ready"):
            raise ChildFailed(Reason.UNDECODABLE, INVALID_ANSWER)

    def kill(self) -> None:
        """Kill the process, from any thread; a thread that waits for its answer gets `ChildFailed`."""
        self._process.kill()
        self._process.wait()

    def close_channel(self) -> None:
        """Close the socket, in the thread that uses it."""
        self._channel.close()
        if self._messages >= 0:
            os.close(self._messages)
            self._messages = -1

    def exchange(
        self, header: dict[str, Any], parts: Sequence[bytes], max_bytes: int, timeout_s: float
    ) -> tuple[dict[str, Any], memoryview]:
        """Return the answer to a frame.

        Raises:
            ChildFailed: there is none; the process must not be used again.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._channel.settimeout(timeout_s)
            send_frame(self._channel, header, *parts)
            return receive_frame(self._receive_until(deadline), max_bytes)
        except TimeoutError:
            raise ChildFailed(Reason.TIMED_OUT, f"the decoder gave no answer within {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise self._describe_exit() from error

    def _describe_exit(self) -> ChildFailed:
        """Return how the process exited, or that its answer was invalid."""
        try:
            status = self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return ChildFailed(Reason.UNDECODABLE, INVALID_ANSWER)
        if status in _TIMERS:
            return ChildFailed(Reason.TIMED_OUT, f"decoding exceeded its limit of {_TIMERS[status]} time")
        printed = self._read_message()
        detail = f"the decoder's process exited with status {status}" + (f" and printed: {printed}" if printed else "")
        # The kernel sends SIGKILL when memory runs out; no other program sends it to this process.
        lacks_memory = status == -signal.SIGKILL or _NO_MEMORY.search(printed)
        return ChildFailed(Reason.OUT_OF_MEMORY if lacks_memory else Reason.UNDECODABLE, detail)

    def _read_message(self) -> str:
        """Return the last line that the process printed, in printable characters."""
        size = os.fstat(self._messages).st_size
        text = os.pread(self._messages, 4096, max(0, size - 4096)).decode(errors="replace").strip()
        return ascii(text.rpartition("\n")[2])[1:-1][-_MESSAGE_CHARACTERS:]

    def _receive_until(self, deadline: float) -> Callable[[memoryview], int]:
        def receive(buffer: memoryview) -> int:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._channel.settimeout(left)
            return self._channel.recv_into(buffer)

        return receive
