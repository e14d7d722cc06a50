"""Names that were seen already, on disk: a set in memory would grow with the archive."""

import hashlib
import sqlite3
from types import TracebackType
from typing import Self

_CACHE_KIB = 8192


class Seen:
    """A set of names. Its file is temporary, nameless and gone with the process."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def add(self, name: str) -> bool:
        """Remember a name; return whether it is new.

        Raises:
            OSError: the disk for temporary files is full.
        """
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        try:
            return self._base.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1
        except sqlite3.Error as error:
            message = f"the list of names seen cannot be kept in the folder for temporary files: {error}"
            raise OSError(message) from error
