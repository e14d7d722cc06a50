"""The rows of a run as DuckDB views: only files that commit marks name, in bounded memory, without network access."""

import glob
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from scorer.archive.folder import utf8_path
from scorer.archive.marks import CommitMark
from scorer.archive.rows import ADDED_RESULTS, ERRORS, RESULTS
from scorer.errors import RunBroken

MEMORY = "512MB"  # what does not fit is spilled to disk
THREADS = 2
_SETTINGS: dict[str, str | int | float | list[str]] = {
    "memory_limit": MEMORY,
    "threads": THREADS,
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


class Tables:
    """A temporary DuckDB database on disk."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def add_run(self, folder: Path, marks: Sequence[CommitMark], suffix: str = "") -> None:
        """Create the views `results<suffix>` and `errors<suffix>` of a run; columns of newer releases are null.

        Raises:
            RunBroken: a file that a mark names is missing, or has other columns.
        """
        kinds = (("results", RESULTS, [m.results for m in marks]), ("errors", ERRORS, [m.errors for m in marks]))
        for kind, schema, names in kinds:
            # A folder's name may contain `*` or `[`, which DuckDB would read as a pattern.
            files = [glob.escape(utf8_path(folder / kind / name)) for part in names for name in part]
            if not files:
                self._connection.register(kind + suffix, schema.empty_table())
                continue
            with _translate_errors():
                rows = self._connection.read_parquet(files, union_by_name=True)  # a run may have files of two releases
            absent = set(schema.names) - set(rows.columns)
            if missing := absent - ADDED_RESULTS:
                message = f"{folder / kind} contains files of another layout, without the columns {sorted(missing)}"
                raise RunBroken(message)
            whole = self._connection.from_arrow(schema.empty_table())
            types = zip(whole.columns, whole.types, strict=True)
            added = [f"CAST(NULL AS {of}) AS {name}" for name, of in types if name in absent]
            rows.project(", ".join(["*", *added])).select(*schema.names).create_view(kind + suffix)

    def add_table(self, name: str, table: pa.Table) -> None:
        """Create a view of a table in memory."""
        self._connection.register(name, table)

    def read(self, sql: str) -> pa.Table:
        """Return all rows of a query as a table in memory.

        Raises:
            RunBroken: a file cannot be read.
        """
        with _translate_errors():
            return self._connection.sql(sql).to_arrow_table()

    def run(self, sql: str) -> None:
        """Run a statement that returns nothing.

        Raises:
            RunBroken: a file cannot be read.
        """
        with _translate_errors():
            self._connection.execute(sql)

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return all rows of a query that aggregates, as dictionaries by column name.

        Raises:
            RunBroken: a file cannot be read.
        """
        with _translate_errors():
            cursor = self._connection.execute(sql, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextmanager
def open_tables() -> Iterator[Tables]:
    """Open a database in a temporary folder, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="unlensed-report-") as folder:
        config = {**_SETTINGS, "temp_directory": folder}
        with duckdb.connect(f"{folder}/tables.duckdb", config=config) as connection:
            yield Tables(connection)


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):
        raise  # an error in this package's SQL, not in the files
    except duckdb.OutOfMemoryException as error:
        message = f"the folder for temporary files is too small for the report; set TMPDIR: {_first_line(error)}"
        raise OSError(message) from error
    except duckdb.Error as error:
        message = f"a file that a commit mark names cannot be read: {_first_line(error)}"
        raise RunBroken(message) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
