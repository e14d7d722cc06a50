"""Files that contain many images: tars, and Parquet manifests with bytes in their rows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from scorer.archive.items import Item
from scorer.archive.left_out import LeftOut
from scorer.archive.source.parquet import TooLarge, find_column_type, is_bytes_type, open_parquet, read_columns
from scorer.archive.source.tars import read_members
from scorer.errors import SourceChanged, SourceDamaged, UsageError
from scorer.face_boxes import read_faces
from scorer.payloads.names import shorten_id, show_uri, source_of
from scorer.payloads.stores import StoreFile, Version, read_version

_BATCH_ROWS = 16
_CHECKED_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Container:
    """A tar, or some row groups of a Parquet manifest.

    Attributes:
        uri: of the file.
        version: of the file when the run was planned.
        images: how many it contains; None where only reading counts them.
        size: bytes of its images; for a tar, of the whole file.
        row_group: the first of `row_groups` row groups, with `rows` rows from `first_row` on; a null is not an image.
        data_column: the column with the bytes.
        faces_column: the column with their faces, if any.
    """

    kind: Literal["tar", "rows"]
    uri: str
    version: Version
    images: int | None
    size: int
    row_group: int = 0
    row_groups: int = 0
    rows: int = 0
    first_row: int = 0
    data_column: str = ""
    faces_column: str | None = None


def describe_tar(uri: str, images: int | None = None) -> Container:
    """Return a tar as one container.

    Raises:
        FileNotFoundError: there is no such tar.
        PayloadUnavailable: the store fails.
    """
    version = read_version(uri)
    return Container("tar", uri, version, images, version.size)


def split_rows(uri: str, data_column: str, faces_column: str | None, shard_images: int) -> Iterator[Container]:
    """Yield the row groups of a Parquet manifest, joined until they have `shard_images` rows.

    Raises:
        UsageError: there is no such column, it does not contain bytes, or a row's faces are not valid.
        FileNotFoundError: there is no such manifest.
        SourceDamaged: it is not a Parquet file.
        PayloadUnavailable: the store fails.
    """
    version = read_version(uri)
    with open_parquet(uri) as parquet:
        kind = find_column_type(parquet, data_column, uri)
        if not is_bytes_type(kind):
            message = f"{show_uri(uri)} contains {kind} in {data_column!r}, not bytes; for URIs use --uri-column"
            raise UsageError(message)
        if faces_column:
            # Invalid faces are reported now, instead of by a shard that fails hours later.
            find_column_type(parquet, faces_column, uri)
            all_groups, name = range(parquet.num_row_groups), show_uri(uri)
            for row, (faces,) in enumerate(read_columns(parquet, [faces_column], all_groups, _CHECKED_ROWS, uri)):
                read_faces(faces, f"{name}, row {row},")
        leaf = _find_leaf(parquet.metadata, data_column)
        first_row = start = 0
        rows = size = 0
        images: int | None = 0
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            column = group.column(leaf)
            nulls = _count_nulls(column, kind) if group.num_rows else 0
            images = images + group.num_rows - nulls if images is not None and nulls is not None else None
            rows, size = rows + group.num_rows, size + column.total_compressed_size
            if rows >= shard_images or number == parquet.num_row_groups - 1:
                groups = number + 1 - start
                yield Container(
                    "rows", uri, version, images, size, start, groups, rows, first_row, data_column, faces_column
                )
                first_row, start = first_row + rows, number + 1
                rows = size = images = 0


def _count_nulls(column: pq.ColumnChunkMetaData, kind: pa.DataType) -> int | None:
    if pa.types.is_null(kind):
        return int(column.num_values)
    facts = column.statistics
    return int(facts.null_count) if facts is not None and facts.has_null_count else None


def _find_leaf(metadata: pq.FileMetaData, column: str) -> int:
    return next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column)


def read_container(container: Container, max_bytes: int, left_out: Counter[str]) -> Iterator[Item]:
    """Yield the images of a container with their bytes; an image above `max_bytes` has no bytes.

    Args:
        container: the tar or row groups.
        max_bytes: of one image.
        left_out: is increased by the counts, by `LeftOut`, of what is not an image and was not counted by the plan.

    Raises:
        SourceChanged: it is missing or has changed; raised before the first image or, at the latest, after the last.
        SourceDamaged: it cannot be read to its end.
        PayloadUnavailable: the store fails.
    """
    _require_version(container)
    try:
        if container.kind == "tar":
            yield from _read_tar(container, max_bytes, left_out)
        else:
            yield from _read_rows(container, max_bytes, left_out)
    except FileNotFoundError:
        message = f"{show_uri(container.uri)} was removed while it was read"
        raise SourceChanged(message) from None
    except SourceDamaged:
        _require_version(container)  # a file that is replaced while it is read looks damaged
        raise
    _require_version(container)


def _require_version(container: Container) -> None:
    try:
        found = read_version(container.uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        message = f"{show_uri(container.uri)} was removed after the run was planned; restore it, or start a new run"
        raise SourceChanged(message) from None
    if found != container.version:
        planned = container.version
        message = (
            f"{show_uri(container.uri)} has changed since the run was planned ({planned.size} bytes, {planned.state}; "
            f"now {found.size}, {found.state}); start a new run"
        )
        raise SourceChanged(message)


def _read_tar(container: Container, max_bytes: int, left_out: Counter[str]) -> Iterator[Item]:
    with StoreFile(container.uri) as file:
        yield from read_members(file, container.uri, max_bytes, left_out)


def _read_rows(container: Container, max_bytes: int, left_out: Counter[str]) -> Iterator[Item]:
    uri, source = container.uri, source_of(container.uri)
    columns = [container.data_column] + ([container.faces_column] if container.faces_column else [])
    groups = range(container.row_group, container.row_group + container.row_groups)
    with open_parquet(uri) as parquet:
        rows = read_columns(parquet, columns, groups, _BATCH_ROWS, uri, max_bytes)
        for row, (data, *faces) in zip(count(container.first_row), rows, strict=False):
            if isinstance(data, TooLarge):
                yield Item(shorten_id(f"{uri}#{row}"), source, uri, oversized=data.why)
            elif data is not None:
                found = read_faces(faces[0], uri) if faces else None
                yield Item(shorten_id(f"{uri}#{row}"), source, uri, data, faces=found)
            elif container.images is None:  # otherwise the plan has counted it
                left_out[LeftOut.IMAGELESS_ROW] += 1
