"""Parquet manifests: their columns, and their rows a few at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scorer.archive.items import SourceDamaged
from scorer.archive.source.names import describe
from scorer.archive.source.stores import StoreFile
from scorer.paths import UsageError

PAGE_BUFFER_BYTES = 2**20
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
    """Open a Parquet file so that its pages are read as they are needed, and never a whole row group.

    Raises:
        FileNotFoundError: there is none.
        SourceDamaged: it is no Parquet file.
        PayloadUnavailable: the store fails.
    """
    with StoreFile(uri, scattered=True) as file:
        with _damage(uri):
            parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False, buffer_size=PAGE_BUFFER_BYTES)
        with parquet:
            yield parquet


def find_type(parquet: pq.ParquetFile, column: str, uri: str) -> pa.DataType:
    """Return the type of a column; `image.bytes` is the field `bytes` of the structs in `image`.

    Raises:
        UsageError: there is no such column.
    """
    schema = parquet.schema_arrow
    path = _find_path(pa.struct(schema), column)
    if path is None:
        message = f"{describe(uri)} has no column {column!r}; it has {', '.join(map(repr, schema.names))}"
        raise UsageError(message)
    kind: pa.DataType = pa.struct(schema)
    for place in path:
        kind = kind.field(place).type
    return kind


def _find_path(struct: pa.StructType, column: str) -> tuple[int, ...] | None:
    """Return the places, level by level, of a column that is named `a` or `a.b.c`; names may hold dots themselves."""
    if (place := struct.get_field_index(column)) >= 0:
        return (place,)
    for place in range(struct.num_fields):
        field = struct.field(place)
        inner = column.removeprefix(f"{field.name}.")
        if inner != column and pa.types.is_struct(field.type) and (path := _find_path(field.type, inner)):
            return (place, *path)
    return None


def holds_text(kind: pa.DataType) -> bool:
    """Return whether a column's values are text, however they are stored; a column of nothing but nulls may be."""
    return _is_any(kind, _TEXT)


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column's values are bytes, however they are stored; a column of nothing but nulls may be."""
    return _is_any(kind, _BYTES)


def _is_any(kind: pa.DataType, wanted: Sequence[Callable[[pa.DataType], bool]]) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _is_any(kind.storage_type, wanted)
    if pa.types.is_dictionary(kind):
        return _is_any(kind.value_type, wanted)
    return any(is_one(kind) for is_one in wanted)


def read_columns(
    parquet: pq.ParquetFile, columns: Sequence[str], row_groups: Sequence[int], batch_rows: int, uri: str
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of `columns` in each row of `row_groups`, in order; memory holds a batch and a page a column.

    How large a page is was decided when the file was written: PyArrow puts up to 1,024 values into one.

    Raises:
        SourceDamaged: a page cannot be read.
        PayloadUnavailable: the store fails.
    """
    batches = parquet.iter_batches(batch_rows, row_groups=row_groups, columns=columns, use_threads=False)
    while True:
        with _damage(uri):
            batch = next(batches, None)
        if batch is None:
            return
        values = [_column(batch, column) for column in columns]
        for row in range(batch.num_rows):
            yield tuple(value[row].as_py() for value in values)


def _column(batch: pa.RecordBatch, column: str) -> pa.Array:
    first, *inner = _find_path(pa.struct(batch.schema), column) or ()
    values = batch.column(first)
    for place in inner:
        values = values.flatten()[place]
    return values


@contextmanager
def _damage(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:  # the store's own errors are others by now
        why = str(error).splitlines()[0]
        message = f"{describe(uri)} is no Parquet file, or is damaged: {why}"
        raise SourceDamaged(message) from error
