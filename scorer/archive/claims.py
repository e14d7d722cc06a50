"""Which process works on a shard, and how often that work crashed: `_attempts/NNNNN.json`, removed with the commit.

A process locks the file while it works on the shard, so that no other process does, and counts its start. A process
that stops in order takes its start back; a process that is killed cannot. From the third start on the shard is suspect:
its images are scored one at a time, and each image is noted before it begins. An image that was noted at three crashes
is not scored.

The lock is `flock`, which ends with the process. On a file system without locks nothing is locked. Two processes of the
same index then do the same work twice, and the commit is still that of one of them, whole.
"""

import json
import os
from pathlib import Path
from typing import Self

from scorer.archive.folder import mark_name
from scorer.files import try_lock

SUSPECT_FROM_STARTS = 3
MAX_CRASHES = 3
_BLOCK = 512  # the file only grows, by whole blocks, and one write fills it: a kill leaves the old text or the new one


class Claim:
    """This process's exclusive right to work on a shard; `release` or `finish` ends it.

    Attributes:
        starts: how often the work on the shard began without an orderly end, this time included.
        crashes: at how many crashes each image was noted, by position.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
        found = json.loads(text) if text.strip() else {}
        self.starts = 1 + int(found.get("starts", 0))
        self.crashes = {int(position): int(count) for position, count in found.get("deaths", {}).items()}
        if (crashed_at := found.get("now")) is not None:
            self.crashes[crashed_at] = self.crashes.get(crashed_at, 0) + 1
        self._write(None)

    @classmethod
    def acquire(cls, folder: Path, shard: int) -> Self | None:
        """Return the claim on a shard, or None while another process has it.

        Raises:
            OSError: the file cannot be written.
        """
        path = folder / mark_name(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not try_lock(descriptor):
                    os.close(descriptor)
                    return None
                if os.fstat(descriptor).st_nlink:
                    return cls(path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the previous owner removed the file before the lock was taken

    @property
    def suspect(self) -> bool:
        """Whether an image of the shard may be what kills its processes."""
        return self.starts >= SUSPECT_FROM_STARTS

    def must_skip(self, position: int) -> bool:
        """Return whether an image was noted at so many crashes that it is not scored."""
        return self.crashes.get(position, 0) >= MAX_CRASHES

    def note(self, position: int | None) -> None:
        """Write down which single image is about to begin; None for an image that is not decoded at all."""
        self._write(position)

    def release(self) -> None:
        """Give the shard back without a commit, in order."""
        self.starts -= 1
        if self.starts or self.crashes:
            self._write(None)
            os.close(self._descriptor)
        else:
            self.finish()

    def finish(self) -> None:
        """Remove the file: the shard is committed, or its work never began."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _write(self, current: int | None) -> None:
        text = json.dumps({"starts": self.starts, "deaths": self.crashes, "now": current}).encode() + b"\n"
        size = max(-(-len(text) // _BLOCK) * _BLOCK, os.fstat(self._descriptor).st_size)
        os.pwrite(self._descriptor, text.rjust(size), 0)


def find_suspects(folder: Path) -> set[int]:
    """Return the shards whose images the next start must score one at a time."""
    suspects = set()
    for path in folder.glob("*.json"):
        text = path.read_text(encoding="ascii", errors="replace")
        if text.strip() and json.loads(text)["starts"] >= SUSPECT_FROM_STARTS - 1:
            suspects.add(int(path.stem))
    return suspects
