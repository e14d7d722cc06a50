"""Files that hold many images: tars, and Parquet manifests with bytes in their rows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from scorer.archive.items import Item
from scorer.archive.left_out import LeftOut
from scorer.archive.source.parquet import TooLarge, find_type, holds_bytes, open_parquet, read_columns
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
        images: how many it holds; None where only reading tells.
        size: bytes of its images; of a tar, of the whole file.
        row_group: the first of `row_groups`, which hold `rows` from `first_row` of the file on; a null is no image.
        data_column: with the bytes.
        faces_column: with their faces, if there is one.
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
        FileNotFoundError: there is none.
        PayloadUnavailable: the store fails.
    """
    version = read_version(uri)
    return Container("tar", uri, version, images, version.size)


def split_rows(uri: str, data_column: str, faces_column: str | None, shard_images: int) -> Iterator[Container]:
    """Yield the row groups of a Parquet manifest, as many together as hold about `shard_images` rows.

    Raises:
        UsageError: there is no such column, it holds no bytes, or faces are not what they should be.
        FileNotFoundError: there is no such manifest.
        SourceDamaged: it is no Parquet file.
        PayloadUnavailable: the store fails.
    """
    version = read_version(uri)
    with open_parquet(uri) as parquet:
        kind = find_type(parquet, data_column, uri)
        if not holds_bytes(kind):
            message = f"{show_uri(uri)} holds {kind} in {data_column!r}, not bytes; URIs need --uri-column"
            raise UsageError(message)
        if faces_column:
            # Faces that nobody can read are told now, not by a shard that fails in the middle of the night.
            find_type(parquet, faces_column, uri)
            every, name = range(parquet.num_row_groups), show_uri(uri)
            for row, (faces,) in enumerate(read_columns(parquet, [faces_column], every, _CHECKED_ROWS, uri)):
                read_faces(faces, f"{name}, row {row},")
        place = _leaf(parquet.metadata, data_column)
        first_row = start = 0
        rows = size = 0
        images: int | None = 0
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            column = group.column(place)
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


def _leaf(metadata: pq.FileMetaData, column: str) -> int:
    return next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column)


def read_container(container: Container, max_bytes: int, left_out: Counter[str]) -> Iterator[Item]:
    """Yield the images of a container with their bytes; what is above `max_bytes` comes without.

    Args:
        container: what to read.
        max_bytes: of one image.
        left_out: takes the counts, by `LeftOut`, of what is no image and was not counted when the run was planned.

    Raises:
        SourceChanged: it is gone or another; told before the first image or, at the latest, after the last.
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
        message = f"{show_uri(container.uri)} went while it was read"
        raise SourceChanged(message) from None
    except SourceDamaged:
        _require_version(container)  # bytes of two files in one look like damage
        raise
    _require_version(container)


def _require_version(container: Container) -> None:
    try:
        found = read_version(container.uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        message = f"{show_uri(container.uri)} is gone since the run was planned; bring it back, or start a new run"
        raise SourceChanged(message) from None
    if found != container.version:
        then = container.version
        message = (
            f"{show_uri(container.uri)} has changed since the run was planned ({then.size} bytes, {then.state}; "
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
            elif container.images is None:  # else the plan counts it
                left_out[LeftOut.IMAGELESS_ROW] += 1
