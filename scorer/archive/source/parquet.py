"""Parquet manifests: their columns, and their rows in small batches."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scorer.archive.source.parquet_pages import BadPages, Page, read_pages
from scorer.errors import SourceDamaged, UsageError
from scorer.messages import MAX_FACES
from scorer.payloads.names import show_uri
from scorer.payloads.stores import StoreFile

PAGE_BUFFER_BYTES = 2**20
# By how much a page may grow when it is inflated. Photographs hardly compress; PyArrow puts up to 1,024 into one page.
MAX_INFLATION_BYTES = 2**27
MAX_DICTIONARY_INFLATION_BYTES = 2**24  # a dictionary's values are copied into each row that refers to them
BATCH_BYTES = 2**26
MAX_NESTED_VALUES = 2**24  # in a column of lists, of one row group
# A footer's structures in memory take up to 250 times its bytes; a child process with limited memory first reads a
# larger one.
TRUSTED_FOOTER_BYTES, MAX_FOOTER_BYTES, FOOTER_MEMORY_BYTES = 2**20, 2**27, 640 * 2**20
_TAIL_BYTES = 8
_FOOTER_CHECK = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({FOOTER_MEMORY_BYTES}, {FOOTER_MEMORY_BYTES}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import pyarrow as pa, pyarrow.parquet as pq
pq.read_metadata(pa.BufferReader(sys.stdin.buffer.read()))
"""
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
    pa.types.is_null,
)


@contextmanager
def open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file so that each page is read when it is needed, and never a whole row group.

    Raises:
        FileNotFoundError: there is no such file.
        SourceDamaged: it is not a Parquet file.
        PayloadUnavailable: the store fails.
    """
    with StoreFile(uri, scattered=True) as file:
        _check_footer(file, uri)
        with _translate_errors(uri):
            parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False, buffer_size=PAGE_BUFFER_BYTES)
        with parquet:
            yield parquet


def _check_footer(file: StoreFile, uri: str) -> None:
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _TAIL_BYTES))
    size = int.from_bytes(file.read(4), "little")
    if TRUSTED_FOOTER_BYTES < size <= min(MAX_FOOTER_BYTES, length):
        file.seek(max(0, length - _TAIL_BYTES - size))
        tail = b"PAR1" + file.read(size + _TAIL_BYTES)
        program = [sys.executable, "-c", _FOOTER_CHECK]
        check = subprocess.run(program, input=tail, capture_output=True, check=False)  # noqa: S603 - a constant command
        problem = f"is damaged, or takes more than {FOOTER_MEMORY_BYTES} bytes of memory" if check.returncode else ""
    else:
        problem = f"is larger than {MAX_FOOTER_BYTES} bytes" if MAX_FOOTER_BYTES < size <= length else ""
    file.seek(0)
    if problem:
        message = f"{show_uri(uri)} cannot be read: its footer of {size} bytes {problem}"
        raise SourceDamaged(message)


def find_column_type(parquet: pq.ParquetFile, column: str, uri: str) -> pa.DataType:
    """Return the type of a column; `image.bytes` is the field `bytes` of the structs in `image`.

    Raises:
        UsageError: there is no such column.
    """
    schema = parquet.schema_arrow
    path = _find_path(pa.struct(schema), column)
    if path is None:
        message = f"{show_uri(uri)} has no column {column!r}; it has {', '.join(map(repr, schema.names))}"
        raise UsageError(message)
    kind: pa.DataType = pa.struct(schema)
    for index in path:
        kind = kind.field(index).type
    return kind


def _find_path(struct: pa.StructType, column: str) -> tuple[int, ...] | None:
    """Return the indexes, level by level, of a column that is named `a` or `a.b.c`; a name may contain dots itself."""
    if (index := struct.get_field_index(column)) >= 0:
        return (index,)
    for index in range(struct.num_fields):
        field = struct.field(index)
        inner = column.removeprefix(f"{field.name}.")
        if inner != column and pa.types.is_struct(field.type) and (path := _find_path(field.type, inner)):
            return (index, *path)
    return None


def is_text_type(kind: pa.DataType) -> bool:
    """Return whether a column's values are text in any storage; true for a column of nulls only."""
    return _is_any(kind, _TEXT)


def is_bytes_type(kind: pa.DataType) -> bool:
    """Return whether a column's values are bytes in any storage; true for a column of nulls only."""
    return _is_any(kind, _BYTES)


def _is_any(kind: pa.DataType, wanted: Sequence[Callable[[pa.DataType], bool]]) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _is_any(kind.storage_type, wanted)
    if pa.types.is_dictionary(kind):
        return _is_any(kind.value_type, wanted)
    return any(is_one(kind) for is_one in wanted)


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Replaces a value that was not read; `why` is the second half of a sentence."""

    why: str


def read_columns(  # noqa: PLR0913, PLR0917 - one parameter for each choice
    parquet: pq.ParquetFile,
    columns: Sequence[str],
    row_groups: Sequence[int],
    batch_rows: int,
    uri: str,
    max_bytes: int | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of `columns` in each row of `row_groups`, in order; memory holds a batch and a page a column.

    The writer of a file chooses the size of its pages: PyArrow puts up to 1,024 values into one. A page that grows too
    much when it is inflated is not read, and large values are read one by one.

    Args:
        parquet: the file.
        columns: their names.
        row_groups: their numbers.
        batch_rows: at most so many rows at once.
        uri: of the file.
        max_bytes: of one value. A longer value, and each value in a page that is not read, is yielded as `TooLarge`.
            With None such a page raises `SourceDamaged`.

    Raises:
        SourceDamaged: a page cannot be read.
        PayloadUnavailable: the store fails.
    """
    with StoreFile(uri, scattered=True) as file:
        for number in row_groups:
            pages = _read_page_sizes(parquet, columns, number, file, uri)
            large = next(filter(_inflates_too_much, pages), None)
            if large:
                why = f"a page of {large.stored} bytes inflates to {large.size}: write the file with smaller pages"
                if max_bytes is None:
                    message = f"{show_uri(uri)} is damaged: {why}"
                    raise SourceDamaged(message)
                for _ in range(parquet.metadata.row_group(number).num_rows):
                    yield tuple(TooLarge(why) for _ in columns)
            elif parquet.metadata.row_group(number).num_rows:
                rows = _choose_batch_rows(pages, batch_rows)
                yield from _read_group(parquet, columns, number, rows, uri, max_bytes)


def _read_page_sizes(
    parquet: pq.ParquetFile, columns: Sequence[str], number: int, file: StoreFile, uri: str
) -> list[Page]:
    """Return the sizes that the pages of `columns` state.

    Raises:
        SourceDamaged: the sizes of the pages or of the row group are impossible.
    """
    group, schema = parquet.metadata.row_group(number), parquet.metadata.schema
    found: list[Page] = []
    try:
        for index in range(group.num_columns):
            leaf = schema.column(index)
            if any(leaf.path == column or leaf.path.startswith(f"{column}.") for column in columns):
                pages = list(read_pages(file, group.column(index)))
                _require_plausible(pages, leaf.max_repetition_level > 0, group.num_rows, file.seek(0, os.SEEK_END))
                found += pages
    except (BadPages, pa.ArrowException, OSError) as error:
        message = f"{show_uri(uri)} is not a Parquet file, or is damaged: {error}"
        raise SourceDamaged(message) from error
    return found


def _require_plausible(pages: Sequence[Page], nested: bool, rows: int, length: int) -> None:  # noqa: FBT001
    values = sum(page.values for page in pages if not page.dictionary)
    if rows < 0 or rows > length + MAX_NESTED_VALUES:
        message = f"a file of {length} bytes states {rows} rows"
        raise BadPages(message)
    if nested and values > MAX_NESTED_VALUES:
        message = f"its lists have {values} values in one row group: write smaller row groups"
        raise BadPages(message)


def _inflates_too_much(page: Page) -> bool:
    limit = MAX_DICTIONARY_INFLATION_BYTES if page.dictionary else MAX_INFLATION_BYTES
    return page.size - page.stored > limit


def _choose_batch_rows(pages: Sequence[Page], most: int) -> int:
    """Return how many rows fit into a batch, whatever values of the pages they contain."""
    total = sum(page.size for page in pages)
    repeated = max((page.size for page in pages if page.dictionary), default=0)
    if total <= BATCH_BYTES and repeated * most <= BATCH_BYTES:
        return most
    return max(1, min(most, BATCH_BYTES // max(page.size for page in pages)))


def _read_group(  # noqa: PLR0913, PLR0917 - as `read_columns`
    parquet: pq.ParquetFile, columns: Sequence[str], number: int, rows: int, uri: str, max_bytes: int | None
) -> Iterator[tuple[Any, ...]]:
    with _translate_errors(uri):
        batches = parquet.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False)
    while True:
        with _translate_errors(uri):
            batch = next(batches, None)
        if batch is None:
            return
        values = [_column(batch, column) for column in columns]
        for row in range(batch.num_rows):
            yield tuple(_read_value(value[row], max_bytes) for value in values)
        del batch, values  # free them before the next batch is read


def _read_value(value: pa.Scalar, max_bytes: int | None) -> Any:  # noqa: ANN401 - a value of any type
    """Return a value as a Python object, or `TooLarge`."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if isinstance(value, pa.ExtensionScalar):
        return _read_value(value.value, max_bytes) if value.is_valid else None
    if max_bytes is not None and isinstance(value, pa.BinaryScalar) and value.is_valid:
        size = value.as_buffer().size
        if size > max_bytes:
            return TooLarge(f"{size} bytes, the limit is {max_bytes}")
    if isinstance(value, pa.ListScalar) and value.is_valid and len(value.values) > MAX_FACES:
        return value.values[: MAX_FACES + 1].to_pylist()  # enough for the caller to see that there are too many
    return value.as_py()


def _column(batch: pa.RecordBatch, column: str) -> pa.Array:
    first, *inner = _find_path(pa.struct(batch.schema), column) or ()
    values = batch.column(first)
    for index in inner:
        values = values.flatten()[index]
    return values


@contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:  # `StoreFile` has already translated the store's own errors
        why = str(error).splitlines()[0]
        message = f"{show_uri(uri)} is not a Parquet file, or is damaged: {why}"
        raise SourceDamaged(message) from error
