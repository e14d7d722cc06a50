"""A set of names on disk: a set in memory would grow with the archive."""

import hashlib
import sqlite3
from types import TracebackType
from typing import Self

_CACHE_KIB = 8192


class SeenNames:
    """A set of names in a temporary SQLite file without a name, which ends with the process."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, times INTEGER DEFAULT 1) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, name: str) -> bool:
        """Add a name; return whether it is new.

        Raises:
            OSError: the disk for temporary files is full.
        """
        return self._change("INSERT OR IGNORE INTO seen (digest) VALUES (?)", name).rowcount == 1

    def add_unique(self, name: str) -> str:
        """Add a name, and return it; a name that was added before gets a number, so that it is unique.

        The time does not depend on how often the name was added.

        Raises:
            OSError: as `add`.
        """
        unique = name
        while not self.add(unique):  # repeats only if another name looks like a numbered one
            increment = "UPDATE seen SET times = times + 1 WHERE digest = ? RETURNING times"
            unique = f"{name}#{self._change(increment, name).fetchone()[0]}"
        return unique

    def _change(self, statement: str, name: str) -> sqlite3.Cursor:
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        try:
            return self._database.execute(statement, (digest,))
        except sqlite3.Error as error:
            message = f"the list of names cannot be written to the folder for temporary files: {error}"
            raise OSError(message) from error
