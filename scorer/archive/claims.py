"""Who has a shard in hand, and at how many deaths it was: `_attempts/NNNNN.json`, there only while it is worked on.

A process locks the file while it works on the shard, so that nobody else does, and counts its start. Whoever ends in
good order takes the start back; whoever is killed cannot. From the third start on the shard is suspect: its images are
scored one at a time, each noted before it begins. An image that was noted at three deaths is passed over.

The lock is `flock`, which ends with the process. Where a file system has none, nothing is locked, and two processes of
the same index would do the same work twice; the commit still is one of theirs, whole.
"""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Self

from scorer.archive.folder import mark_name

SUSPECT_FROM_STARTS = 3
MAX_DEATHS = 3
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_BLOCK = 512  # a file only grows, by whole blocks, and is written at once: a kill leaves the old text or the new


class Claim:
    """A shard in this process's hands; `release` or `finish` ends it.

    Attributes:
        starts: how often the shard was begun and not ended in good order, this time included.
        deaths: at how many deaths each noted image was, by position.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
        found = json.loads(text) if text.strip() else {}
        self.starts = 1 + int(found.get("starts", 0))
        self.deaths = {int(position): int(count) for position, count in found.get("deaths", {}).items()}
        if (died_at := found.get("now")) is not None:
            self.deaths[died_at] = self.deaths.get(died_at, 0) + 1
        self._write(None)

    @classmethod
    def take(cls, folder: Path, shard: int) -> Self | None:
        """Return the claim on a shard, or None while another process has it.

        Raises:
            OSError: the file cannot be written.
        """
        path = folder / mark_name(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not _lock(descriptor):
                    os.close(descriptor)
                    return None
                if os.fstat(descriptor).st_nlink:
                    return cls(path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder removed it meanwhile

    @property
    def suspect(self) -> bool:
        """Whether an image of the shard may be what kills."""
        return self.starts >= SUSPECT_FROM_STARTS

    def kills(self, position: int) -> bool:
        """Return whether an image was at so many deaths that it is not tried again."""
        return self.deaths.get(position, 0) >= MAX_DEATHS

    def note(self, position: int | None) -> None:
        """Write down which image is about to begin, alone; None for one that is not even tried."""
        self._write(position)

    def release(self) -> None:
        """Give the shard back undone, in good order."""
        self.starts -= 1
        if self.starts or self.deaths:
            self._write(None)
            os.close(self._descriptor)
        else:
            self.finish()

    def finish(self) -> None:
        """The shard is committed, or was never begun: nothing of it needs to be remembered."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _write(self, now: int | None) -> None:
        text = json.dumps({"starts": self.starts, "deaths": self.deaths, "now": now}).encode() + b"\n"
        size = max(-(-len(text) // _BLOCK) * _BLOCK, os.fstat(self._descriptor).st_size)
        os.pwrite(self._descriptor, text.rjust(size), 0)


def _lock(descriptor: int) -> bool:
    """Return False when another process holds the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def find_suspects(folder: Path) -> set[int]:
    """Return the shards that the next start has to take one image at a time."""
    suspects = set()
    for path in folder.glob("*.json"):
        text = path.read_text(encoding="ascii", errors="replace")
        if text.strip() and json.loads(text)["starts"] >= SUSPECT_FROM_STARTS - 1:
            suspects.add(int(path.stem))
    return suspects
