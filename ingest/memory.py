"""How much memory decoding may take, and its reservation by jobs that run at the same time."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SYSTEM = Path("/sys/fs/cgroup")
SERVICE_BYTES = 448 << 20  # of the process that scores: 190 MiB with the starter bundle, 256 of encoded images
PROCESS_BYTES = 128 << 20  # of an idle decoding process, without the libraries that all share


def find_decoding_memory(processes: int) -> int:
    """Return the bytes that all decoders together may take beside idle `processes` and the one that scores.

    Of a container's limit, decoding may take the whole rest. Of a machine, which other programs use, half of the rest.
    """
    used = SERVICE_BYTES + processes * PROCESS_BYTES
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min((machine - used) // 2, _read_container_limit(machine) - used))


def _read_container_limit(machine: int) -> int:
    """Return the limit of this process's control group, version 2 or 1, at most `machine`."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()]
    limits = [machine]
    for _, controllers, path in groups:
        names = controllers.split(",")
        folder, file = (_SYSTEM / "memory", "memory.limit_in_bytes") if "memory" in names else (_SYSTEM, "memory.max")
        if controllers and "memory" not in names:
            continue
        for each in (folder / path.lstrip("/") / file, folder / file):  # a container may see its own group as the root
            text = each.read_text(encoding="utf-8").strip() if each.is_file() else "max"
            limits += [int(text)] if text.isdecimal() else []
    return min(limits)


class MemoryBudget:
    """Reserves at most `total_bytes` at a time, in the order of the calls, so that large images are not starved."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._reserved = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes, at most `total_bytes`, are free, and reserve them for the block."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._queue[0] is ticket and self._reserved + size <= self.total_bytes)
            self._queue.popleft()
            self._reserved += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= size
                self._changed.notify_all()
