"""Files on this machine: replaced atomically, locked, and opened only if they are regular files inside a folder.

A reader sees the old file or the new one, also after a crash.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from scorer.errors import UsageError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path` turns two slashes into one


def require_local(path: Path) -> None:
    """Refuse a URI as an output path: it would become a folder of that name.

    Raises:
        UsageError: `path` is a URI.
    """
    if _URI.match(str(path)):
        scheme, _, rest = str(path).partition(":/")
        message = (
            f"{scheme}://{'/' if scheme == 'file' else ''}{rest} is a URI, and output is written on this machine: "
            "name a path, and copy it to a store afterwards"
        )
        raise UsageError(message)


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or the process ends; return False when another process has locked it.

    On a file system without locks nothing is locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` beside `path` as `<name>.partial`, sync it, and rename it.

    Raises:
        OSError: as `write_and_rename`.
    """
    write_and_rename(path.with_name(f"{path.name}.partial"), path, lambda file: file.write(data))


def write_and_rename(
    partial: Path,
    path: Path,
    write: Callable[[IO[bytes]], object],
    verify: Callable[[Path], object] = lambda _partial: None,
) -> None:
    """Write a file under a temporary name, sync it, verify it, rename it to `path`, and sync the folder.

    Args:
        partial: the temporary name, in the same folder.
        path: the final name; a file of that name is replaced atomically.
        write: writes the content into the open file.
        verify: reads the partial file and raises when it is not what it should be.

    Raises:
        OSError: the disk is full or not writable; the old file is unchanged, and no partial file remains.
    """
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        verify(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open_inside(folder: Path, name: str) -> IO[bytes]:
    """Open a regular file of a folder for reading; a pipe does not block, and a link out of the folder is refused.

    Raises:
        OSError: it cannot be opened, is not a regular file or is outside the folder; `strerror` states which.
    """
    with ExitStack() as stack:
        number = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = stack.enter_context(os.fdopen(number, "rb", closefd=True))
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(folder / name))
        if not Path(os.path.realpath(f"/proc/self/fd/{number}")).is_relative_to(folder.resolve()):
            raise OSError(errno.EXDEV, "it is a link that leads out of the folder", str(folder / name))
        stack.pop_all()
    return file
