"""Parquet manifests: their columns, and their rows a few at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scorer.archive.items import SourceDamaged
from scorer.archive.source.names import describe
from scorer.archive.source.stores import StoreFile
from scorer.paths import UsageError

PAGE_BUFFER_BYTES = 2**20


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
    if column in schema.names:
        return schema.field(column).type
    outer, _, inner = column.partition(".")
    if outer in schema.names and pa.types.is_struct(schema.field(outer).type):
        struct = schema.field(outer).type
        if struct.get_field_index(inner) >= 0:
            return struct.field(inner).type
    message = f"{describe(uri)} has no column {column!r}; it has {', '.join(map(repr, schema.names))}"
    raise UsageError(message)


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
    if column in batch.schema.names:
        return batch.column(column)
    outer, _, inner = column.partition(".")
    return batch.column(outer).flatten()[batch.schema.field(outer).type.get_field_index(inner)]


@contextmanager
def _damage(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:  # the store's own errors are others by now
        why = str(error).splitlines()[0]
        message = f"{describe(uri)} is no Parquet file, or is damaged: {why}"
        raise SourceDamaged(message) from error
