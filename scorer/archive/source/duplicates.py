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
        self._base.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, times INTEGER DEFAULT 1) WITHOUT ROWID")
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
        return self._change("INSERT OR IGNORE INTO seen (digest) VALUES (?)", name).rowcount == 1

    def number(self, name: str) -> str:
        """Remember a name; return it, or with a number behind it, as no name before.

        However often a name comes, finding its number takes no longer.

        Raises:
            OSError: as `add`.
        """
        unique = name
        while not self.add(unique):  # more than once only where a name looks like a numbered one
            again = "UPDATE seen SET times = times + 1 WHERE digest = ? RETURNING times"
            unique = f"{name}#{self._change(again, name).fetchone()[0]}"
        return unique

    def _change(self, statement: str, name: str) -> sqlite3.Cursor:
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        try:
            return self._base.execute(statement, (digest,))
        except sqlite3.Error as error:
            message = f"the list of names seen cannot be kept in the folder for temporary files: {error}"
            raise OSError(message) from error
