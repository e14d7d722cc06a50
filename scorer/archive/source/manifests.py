"""Manifests: Parquet, CSV and JSONL files whose rows name images and, optionally, the boxes of their faces."""

import codecs
import csv
import io
import json
import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from scorer.archive.items import Item
from scorer.archive.left_out import MANIFESTS, LeftOut
from scorer.archive.source.parquet import find_column_type, is_text_type, open_parquet, read_columns
from scorer.errors import SourceDamaged, UsageError
from scorer.face_boxes import read_faces
from scorer.payloads.names import escape_name, shorten_id, show_uri, source_of
from scorer.payloads.stores import LOCAL, StoreFile, open_store
from scorer.text_files import NotUtf8, describe_bad_byte, refuse_utf16

MAX_ROW_BYTES = 2**20  # of a line, or of all lines of a CSV row: enough for a path, and 64 faces with their names
_HEAD_BYTES = 1024
_BLANK = codecs.BOM_UTF8 + b" \t\r\n"
_BATCH_ROWS = 1024


def is_manifest(name: str) -> bool:
    """Return whether a file's name is that of a manifest."""
    return PurePosixPath(name).suffix.lower() in MANIFESTS


def list_manifest(manifest: str, uri_column: str, faces_column: str | None) -> Iterator[Item | LeftOut]:
    """Yield the images that a manifest names, in its order, and `LeftOut` for a row that names none.

    Args:
        manifest: its URI.
        uri_column: with the images' URIs or paths; a relative path starts at the manifest's folder.
        faces_column: with their faces, if any.

    Raises:
        UsageError: there is no such column, or a value in it is not valid.
        FileNotFoundError: there is no such manifest.
        SourceDamaged: it cannot be read to its end.
        PayloadUnavailable: the store fails.
    """
    resolve = _resolver(manifest)
    source, name = source_of(manifest), show_uri(manifest)
    for row, (value, faces) in enumerate(_rows(manifest, uri_column, faces_column)):
        where = f"{name}, row {row},"
        if value is not None and not isinstance(value, str):
            message = f"{where} contains {type(value).__name__} in {uri_column!r}, not text"
            raise UsageError(message)
        if not value:
            yield LeftOut.IMAGELESS_ROW
            continue
        uri = resolve(escape_name(value))
        yield Item(shorten_id(uri), source, uri, faces=read_faces(faces, where))


def _resolver(manifest: str) -> Callable[[str], str]:
    store, path = open_store(manifest)
    folder = posixpath.dirname(path)

    def resolve(value: str) -> str:
        if "://" in value:
            return value
        if store.scheme == LOCAL:
            return Path(folder, os.fsdecode(value.encode())).as_uri()  # UTF-8 in every locale
        return store.name(posixpath.normpath(posixpath.join(folder, value)))

    return resolve


def _rows(manifest: str, uri_column: str, faces_column: str | None) -> Iterator[tuple[Any, Any]]:
    suffix = PurePosixPath(manifest).suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(manifest, uri_column, faces_column)
    return (_csv_rows if suffix == ".csv" else _jsonl_rows)(manifest, uri_column, faces_column)


def _parquet_rows(manifest: str, uri_column: str, faces_column: str | None) -> Iterator[tuple[Any, Any]]:
    columns = [uri_column] + ([faces_column] if faces_column else [])
    with open_parquet(manifest) as parquet:
        kind, *_ = [find_column_type(parquet, column, manifest) for column in columns]
        if not is_text_type(kind):
            message = f"{show_uri(manifest)} contains {kind} in {uri_column!r}, not text; for bytes use --bytes-column"
            raise UsageError(message)
        for values in read_columns(parquet, columns, range(parquet.num_row_groups), _BATCH_ROWS, manifest):
            yield values[0], values[1] if faces_column else None


def _csv_rows(manifest: str, uri_column: str, faces_column: str | None) -> Iterator[tuple[Any, Any]]:
    with _open_text(manifest) as file:
        lines = _RowLines(file)
        rows = csv.reader(lines, strict=True)
        try:
            names = next(rows, [])
            _require_columns(names, (uri_column, faces_column), manifest)
            # Of two columns with one name the last counts, as in `csv.DictReader`, which is slow: it makes a dictionary
            # of each row.
            indexes = {name: index for index, name in enumerate(names) if name in {uri_column, faces_column}}
            for row in rows:
                lines.begin_row()
                if row:
                    found = {name: row[index] for name, index in indexes.items() if index < len(row)}
                    yield found.get(uri_column), found.get(faces_column or "")
        except UnicodeDecodeError:
            raise _find_other_encoding(manifest) from None
        except csv.Error as error:
            message = f"{show_uri(manifest)} is not valid CSV from line {rows.line_num + 1} on: {error}"
            raise SourceDamaged(message) from error


class _RowLines:
    """The lines of a CSV file; the total size of one row's lines is limited.

    Raises:
        UnicodeDecodeError: a line is not UTF-8.
        csv.Error: a row is longer than `MAX_ROW_BYTES`.
    """

    def __init__(self, file: "io.BufferedReader[StoreFile]") -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        self._left = MAX_ROW_BYTES

    def begin_row(self) -> None:
        """Reset the limit for the next row."""
        self._left = MAX_ROW_BYTES

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(self._left + 1):
            self._left -= len(line)
            if self._left < 0:
                message = f"a row of more than {MAX_ROW_BYTES} characters"
                raise csv.Error(message)
            yield line


def _jsonl_rows(manifest: str, uri_column: str, faces_column: str | None) -> Iterator[tuple[Any, Any]]:
    first = True
    with _open_text(manifest) as file:
        for number, line in _number_lines(file):
            if len(line) > MAX_ROW_BYTES:
                message = f"{show_uri(manifest)} has more than {MAX_ROW_BYTES} bytes in line {number}"
                raise SourceDamaged(message)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                raise _find_other_encoding(manifest) from None
            except (ValueError, RecursionError) as error:
                message = f"{show_uri(manifest)} has invalid JSON in line {number}: {error}"
                raise SourceDamaged(message) from error
            if not isinstance(row, dict):
                message = f"{show_uri(manifest)} has no JSON object in line {number}"
                raise SourceDamaged(message)
            if first:
                _require_columns(row, (uri_column, faces_column), manifest)
            first = False
            yield row.get(uri_column), row.get(faces_column)


def _number_lines(file: "io.BufferedReader[StoreFile]") -> Iterator[tuple[int, bytes]]:
    return enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), b""), 1)


@contextmanager
def _open_text(manifest: str) -> "Iterator[io.BufferedReader[StoreFile]]":
    """Open a manifest that is text; UTF-16 and UTF-32 are recognised by the first bytes and refused."""
    with io.BufferedReader(StoreFile(manifest)) as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        try:
            refuse_utf16(head)
        except NotUtf8 as error:
            message = f"{show_uri(manifest)} cannot be read: {error}"
            raise UsageError(message) from error
        if not head.strip(_BLANK):
            message = f"{show_uri(manifest)} is empty: a manifest must begin with a header or a JSON object"
            raise UsageError(message)
        yield file


def _find_other_encoding(manifest: str) -> UsageError:
    """Return the error for a manifest that is not UTF-8, with the first such line."""
    why = "it is not UTF-8"
    with io.BufferedReader(StoreFile(manifest)) as file:
        for number, line in _number_lines(file):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                why = str(describe_bad_byte(error, number))
                break
    return UsageError(f"{show_uri(manifest)} cannot be read: {why}")


def _require_columns(found: Any, wanted: tuple[str | None, ...], manifest: str) -> None:  # noqa: ANN401
    for column in wanted:
        if column is not None and column not in found:
            message = f"{show_uri(manifest)} has no column {column!r}; it has {', '.join(map(repr, found))}"
            raise UsageError(message)
