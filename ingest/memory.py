"""How much memory decoding may take, and who may take it now."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SYSTEM = Path("/sys/fs/cgroup")
SERVICE_BYTES = 448 << 20  # of the process that scores: 190 MiB with the starter bundle, 256 of encoded images
PROCESS_BYTES = 128 << 20  # of a decoding process at rest, without the libraries that all share


def find_decoding_memory(processes: int) -> int:
    """Return the bytes that all decoders together may hold beside `processes` at rest and the one that scores.

    A container is ours: all that its limit leaves. A machine is shared with others: half of what it leaves.
    """
    rest = SERVICE_BYTES + processes * PROCESS_BYTES
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min((machine - rest) // 2, _read_container_limit(machine) - rest))


def _read_container_limit(machine: int) -> int:
    """Return the limit of this process's control group, version 2 or 1, at most `machine`."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()]
    limits = [machine]
    for _, controllers, path in groups:
        names = controllers.split(",")
        folder, file = (_SYSTEM / "memory", "memory.limit_in_bytes") if "memory" in names else (_SYSTEM, "memory.max")
        if controllers and "memory" not in names:
            continue
        for place in (folder / path.lstrip("/") / file, folder / file):  # a container may see its own group as the root
            text = place.read_text(encoding="utf-8").strip() if place.is_file() else "max"
            limits += [int(text)] if text.isdecimal() else []
    return min(limits)


class MemoryBudget:
    """Admits what fits into `total_bytes` together, in the order of asking, so that a large image's turn comes."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._held = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes, at most `total_bytes`, are free, and hold them."""
        turn = object()
        with self._changed:
            self._queue.append(turn)
            self._changed.wait_for(lambda: self._queue[0] is turn and self._held + size <= self.total_bytes)
            self._queue.popleft()
            self._held += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()
