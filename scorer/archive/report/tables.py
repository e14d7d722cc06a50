"""The rows of a run as DuckDB views, in bounded memory, offline, and never anything but what commit marks name."""

import glob
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from scorer.archive.folder import utf8_path
from scorer.archive.marks import CommitMark
from scorer.archive.rows import ERRORS, RESULTS
from scorer.errors import RunBroken

MEMORY = "512MB"  # what does not fit is spilled
THREADS = 2
_SETTINGS: dict[str, str | int | float | list[str]] = {
    "memory_limit": MEMORY,
    "threads": THREADS,
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


class Tables:
    """A DuckDB database on disk that holds nothing but what queries create in it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def add_run(self, folder: Path, marks: Sequence[CommitMark], suffix: str = "") -> None:
        """Create the views `results<suffix>` and `errors<suffix>` of a run.

        Raises:
            RunBroken: a file that a mark names is missing, or has other columns.
        """
        kinds = (("results", RESULTS, [m.results for m in marks]), ("errors", ERRORS, [m.errors for m in marks]))
        for kind, schema, names in kinds:
            # A folder's name may hold `*` or `[`, which DuckDB would take for a pattern.
            files = [glob.escape(utf8_path(folder / kind / name)) for part in names for name in part]
            if not files:
                self._connection.register(kind + suffix, schema.empty_table())
                continue
            with _told():
                rows = self._connection.read_parquet(files)
            if missing := set(schema.names) - set(rows.columns):
                message = f"{folder / kind} holds files of another layout, without the columns {sorted(missing)}"
                raise RunBroken(message)
            rows.select(*schema.names).create_view(kind + suffix)

    def run(self, sql: str) -> None:
        """Run a statement that returns nothing.

        Raises:
            RunBroken: a file cannot be read.
        """
        with _told():
            self._connection.execute(sql)

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return all rows of a query, each by column name; for queries that aggregate.

        Raises:
            RunBroken: a file cannot be read.
        """
        with _told():
            cursor = self._connection.execute(sql, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextmanager
def open_tables() -> Iterator[Tables]:
    """Open a database in a folder of its own, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="unlensed-report-") as folder:
        config = {**_SETTINGS, "temp_directory": folder}
        with duckdb.connect(f"{folder}/tables.duckdb", config=config) as connection:
            yield Tables(connection)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):
        raise  # a mistake of this module, not of the files
    except duckdb.OutOfMemoryException as error:
        message = f"the report needs more room than the temporary folder has; let TMPDIR name another: {_first(error)}"
        raise OSError(message) from error
    except duckdb.Error as error:
        message = f"a file that a commit mark names cannot be read: {_first(error)}"
        raise RunBroken(message) from error


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
