"""Collects what C libraries print to standard error while they decode.

libjpeg reports damaged pixels only in a line that it prints; then it continues with grey. DALI and Pillow return such a
picture without an error. So the C library's `stderr` stream is redirected to memory for the time of a call. File
descriptor 2 and Python's `sys.stderr` do not change: crash reports and progress bars still reach the terminal. Needs
glibc, as DALI does.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

_UNBUFFERED = 2  # glibc's _IONBF
_LIBC = ctypes.CDLL(None)
_LIBC.fdopen.restype = ctypes.c_void_p
_LIBC.fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
_LIBC.fclose.argtypes = [ctypes.c_void_p]
_LIBC.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_ONE_AT_A_TIME = threading.Lock()  # the stream belongs to the process


class NativeMessages:
    """Collects the lines that C code prints to `stderr`."""

    def __init__(self) -> None:
        self._memory = os.memfd_create("native-messages")
        self._stream = _LIBC.fdopen(self._memory, b"a")
        _LIBC.setvbuf(self._stream, None, _UNBUFFERED, 0)
        weakref.finalize(self, _LIBC.fclose, self._stream)

    @contextmanager
    def collect(self) -> Iterator[list[str]]:
        """Yield a list that contains the printed lines after the block.

        One thread at a time is in such a block, so that each line belongs to the block in which it was printed.
        """
        lines: list[str] = []
        stream = ctypes.c_void_p.in_dll(_LIBC, "stderr")
        with _ONE_AT_A_TIME:
            before, stream.value = stream.value, self._stream
            try:
                yield lines
            finally:
                stream.value = before
                text = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
                os.ftruncate(self._memory, 0)
                lines += text.decode(errors="replace").splitlines()
