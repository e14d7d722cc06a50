"""Read Parquet manifests: one row for each photograph, with its bytes or its URI."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
from pyarrow import parquet

from training.data.exif import read_json_exif
from training.data.photos import Photo, check_size, read_file
from training.data.tars import SOURCE_FIELDS, make_exif_reader, name_source

BYTES_COLUMNS = ("bytes", "image", "jpg", "jpeg", "png", "webp", "heic", "avif", "jxl")
URI_COLUMNS = ("uri", "url", "path", "file")
NAME_COLUMNS = ("name", "key", "id")
ROWS_PER_BATCH = 4096


@dataclass(slots=True)
class ParquetPhotos:
    """Parquet files with a column of encoded bytes, or of URIs or paths; paths are relative to the Parquet file.

    A column of `{bytes, path}`, as Hugging Face writes `image`, counts as bytes. The column `source`, `photographer`,
    `author` or `owner` is the source (default: the file's name). The column `exif`, JSON text, contains the tags.

    Attributes:
        paths: of the Parquet files.
    """

    paths: tuple[Path, ...]
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the rows in order; bytes are read a row group at a time, when a picture of it is asked for.

        Raises:
            ValueError: a file is no Parquet file, or has neither a column of bytes nor one of URIs.
        """
        self.dropped.clear()
        for path in self.paths:
            try:
                file = parquet.ParquetFile(path)
            except pa.ArrowInvalid as error:
                message = f"{path} is no Parquet file that can be read: {error}"
                raise ValueError(message) from error
            with file:
                yield from self._list_rows(path, file)

    def describe(self) -> str:
        """Return the first file and the number of files in words."""
        return f"{self.paths[0]}: {len(self.paths)} Parquet manifests"

    def _list_rows(self, path: Path, file: parquet.ParquetFile) -> Iterator[Photo]:
        columns = {column.lower(): column for column in file.schema_arrow.names}
        picture = _find_column(columns, BYTES_COLUMNS)
        uri = None if picture else _find_column(columns, URI_COLUMNS)
        if picture is None and uri is None:
            known = ", ".join(BYTES_COLUMNS + URI_COLUMNS)
            message = f"{path} has the columns {', '.join(columns)}; it must have one of {known}"
            raise ValueError(message)
        name, exif = (_find_column(columns, names) for names in (NAME_COLUMNS, ("exif",)))
        owners = [columns[field] for field in SOURCE_FIELDS if field in columns]
        light = [column for column in (uri, *owners, name, exif) if column is not None]
        for group in range(file.num_row_groups):
            pictures = _PictureGroup(file, group, picture) if picture else None
            for row, facts in enumerate(_metadata_rows(file, group, light)):
                called = facts.get(name or uri or "", f"{group}-{row}")
                yield Photo(
                    f"{path.name}/{called}",
                    name_source(map(facts.get, owners), path.stem),
                    pictures.reader(row) if pictures else _make_uri_reader(str(facts.get(uri or "")), path.parent),
                    read_exif=make_exif_reader(read_json_exif(facts[exif])) if exif else None,
                )


def _find_column(columns: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _metadata_rows(file: parquet.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a row group without its pictures."""
    if not columns:
        yield from ({} for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=columns):
        yield from batch.to_pylist()


@dataclass(slots=True)
class _PictureGroup:
    """The pictures of one row group, read at the first one that is asked for."""

    file: parquet.ParquetFile
    group: int
    column: str
    _cells: Any = None

    def reader(self, row: int) -> Callable[[], bytes]:
        return lambda: self._read(row)

    def _read(self, row: int) -> bytes:
        if self._cells is None:
            self._cells = self.file.read_row_group(self.group, columns=[self.column]).column(0)
        cell = self._cells[row].as_py()
        data = cast("bytes | None", cell.get("bytes") if isinstance(cell, dict) else cell)
        check_size(len(data or b""))
        return data or b""


def _make_uri_reader(uri: str, folder: Path) -> Callable[[], bytes]:
    """Return a function that reads a plain path, relative to `folder`, or any URI that fsspec knows."""
    if "://" not in uri:
        return lambda: read_file(folder / uri)

    def read() -> bytes:
        try:
            with fsspec.open(uri, "rb") as handle:
                check_size(handle.size or 0)
                return cast("bytes", handle.read())
        except ImportError as error:  # not one unreadable picture, but all of them
            message = f"{uri} cannot be read here: {error}"
            raise ModuleNotFoundError(message) from error

    return read
