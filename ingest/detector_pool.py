"""Processes that decode (`ingest.detector_child`), each used by one thread at a time, started when they are needed."""

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
END_TIMEOUT_S = 1.0
START_TRIES = 3
_MESSAGE_CHARACTERS = 200
# What Python and its libraries need to start; the service's secrets lie in other variables and stay out.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
# What decides how its libraries compute: a process that runs other kernels than its parent finds other last bits.
_NUMERIC = ("OPENBLAS_", "OMP_", "MKL_", "NPY_", "ONEDNN_", "DNNL_", "OV_", "OPENVINO_", "GLIBC_TUNABLES")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
# DALI takes larger buffers from pools, of which it gives back none: after one image of 100 megapixels 190 MiB stay.
_NO_POOLS = {"DALI_MALLOC_POOL_THRESHOLD": str(1 << 40)}
_NO_MEMORY = re.compile("MemoryError|bad_alloc|[Cc]annot allocate memory")
_TIMERS = {-signal.SIGALRM: "wall", -signal.SIGPROF: "CPU"}


class SandboxBroken(Exception):
    """No decoding process can be started: this is about the machine or the bundle, not about an image."""


class DetectorUnusable(SandboxBroken):
    """The detector's weights are missing or wrong."""


class SandboxClosed(Exception):
    """The sandbox was closed while an image waited or was being decoded."""


class ChildFailed(Exception):
    """A process failed on a job; `reason` says how, and it must not be used again."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class DetectorPool:
    """At most `processes` processes; further threads wait.

    Args:
        setup: see `describe_setup`.
        processes: how many.
        timeout_s: how long one job may take.
    """

    def __init__(self, setup: dict[str, Any], processes: int, timeout_s: float) -> None:
        self._setup, self._processes, self._timeout_s = setup, processes, timeout_s
        # None: a place whose process is yet to be started. Those that run are used first.
        self._idle: LifoQueue[Child | None] = LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._living: set[Child] = set()
        self.closed = False
        weakref.finalize(self, _kill_all, self._living)

    def start(self, count: int) -> None:
        """Let at least `count` processes be there.

        Raises:
            SandboxBroken: one cannot be started.
            SandboxClosed: the pool was closed.
        """
        slots = [self._idle.get() for _ in range(count)]
        with ThreadPoolExecutor(count) as starters:
            starts = [starters.submit(self._ensure, child) for child in slots]
        for start in starts:
            self._idle.put(None if start.exception() else start.result())
        for start in starts:
            start.result()

    @contextmanager
    def acquire(self) -> Iterator["PoolSlot"]:
        """Wait for a place among the processes."""
        slot = PoolSlot(self._idle.get(), self._ensure, self._discard_child, self._timeout_s)
        try:
            yield slot
        finally:
            self._idle.put(slot.child)

    def close(self) -> None:
        """End every process; callers that wait or are being served get `SandboxClosed`."""
        with self._lock:
            self.closed = True
            living = list(self._living)
        for child in living:
            child.kill()
        slots = [self._idle.get() for _ in range(self._processes)]  # who is being served comes back at once
        for idle in filter(None, slots):
            self._discard_child(idle)
        for _ in range(self._processes):
            self._idle.put(None)

    def _ensure(self, child: "Child | None") -> "Child":
        if self.closed:
            raise SandboxClosed
        return child or self._start_child()

    def _start_child(self) -> "Child":
        for _ in range(START_TRIES):
            with self._lock:
                if self.closed:
                    raise SandboxClosed
                child = Child()
                self._living.add(child)
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
            self._living.discard(child)


class PoolSlot:
    """One of the pool's processes while a thread has it; replaced by a fresh one after a failure."""

    def __init__(
        self,
        child: "Child | None",
        ensure: Callable[["Child | None"], "Child"],
        discard_child: Callable[["Child"], None],
        timeout_s: float,
    ) -> None:
        self.child, self._ensure, self._discard_child, self._timeout_s = child, ensure, discard_child, timeout_s

    def ask(self, job: dict[str, Any], data: Sequence[bytes], max_bytes: int) -> tuple[dict[str, Any], memoryview]:
        """Return the answer to a job, `max_bytes` beside its JSON object at most.

        Raises:
            ChildFailed: the process died or took too long, and is gone.
            SandboxBroken, SandboxClosed: see the pool.
        """
        child = self.child = self._ensure(self.child)
        try:
            return child.exchange(job, data, MAX_HEADER_BYTES + max_bytes, self._timeout_s)
        except BaseException:  # the conversation broke off in the middle
            self.discard()
            raise

    def discard(self) -> None:
        """End the process, if there is one."""
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
        self._channel, theirs = socket.socketpair()
        self._messages = os.memfd_create("decoder-messages")  # what decoders print
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ingest.detector_child"],  # -P: no module of the working folder
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                env=_choose_environment() | _ONE_THREAD | _NO_POOLS,
            )

    def prepare(self, setup: dict[str, Any]) -> None:
        """Let it load what it needs.

        Raises:
            ChildFailed: it died.
            DetectorUnusable: it says so.
        """
        answer, _ = self.exchange(setup, [], MAX_HEADER_BYTES, START_TIMEOUT_S)
        if "error" in answer:
            raise DetectorUnusable(str(answer["error"]))
        if not answer.get("ready"):
            raise ChildFailed(Reason.UNDECODABLE, "it did not get ready")

    def kill(self) -> None:
        """End the process, whatever it does, from any thread; who waits for its answer is told."""
        self._process.kill()
        self._process.wait()

    def close_channel(self) -> None:
        """Close the socket; for the thread that uses it."""
        self._channel.close()
        if self._messages >= 0:
            os.close(self._messages)
            self._messages = -1

    def exchange(
        self, header: dict[str, Any], parts: Sequence[bytes], max_bytes: int, timeout_s: float
    ) -> tuple[dict[str, Any], memoryview]:
        """Return the answer to a frame.

        Raises:
            ChildFailed: there is none; the process must not be asked again.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._channel.settimeout(timeout_s)
            send_frame(self._channel, header, *parts)
            return receive_frame(self._receive_until(deadline), max_bytes)
        except TimeoutError:
            raise ChildFailed(Reason.TIMED_OUT, f"the decoder gave no answer within {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise self._describe_end() from error

    def _describe_end(self) -> ChildFailed:
        """Return how the process ended, or that it said what makes no sense."""
        try:
            status = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return ChildFailed(Reason.UNDECODABLE, "the decoder's process gave no answer that makes sense")
        if status in _TIMERS:
            return ChildFailed(Reason.TIMED_OUT, f"decoding took more {_TIMERS[status]} time than it may")
        said = self._read_message()
        detail = f"the decoder's process ended with status {status}" + (f" and said: {said}" if said else "")
        # SIGKILL comes from the system when memory runs out: nobody else knows this process.
        lacking = status == -signal.SIGKILL or _NO_MEMORY.search(said)
        return ChildFailed(Reason.OUT_OF_MEMORY if lacking else Reason.UNDECODABLE, detail)

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
