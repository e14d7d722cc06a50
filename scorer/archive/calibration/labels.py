"""Labels that reviewers gave to a run's results: a CSV or JSONL file of result ids and labels."""

import csv
import io
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa

from scorer.errors import UsageError
from scorer.text_files import NotUtf8, decode_text

LABELS = pa.schema([("result_id", pa.string()), ("face", pa.string()), ("label", pa.string())])


class Label(StrEnum):
    """What a reviewer says of a face; an unsure one counts neither as a photograph nor as generated."""

    PHOTOGRAPH = "photograph"
    GENERATED = "generated"
    UNSURE = "unsure"


def read_labels(path: Path) -> pa.Table:
    """Return a file's labels, one a row; `face` is a `face_id`, or null for all faces of the image.

    The file has the columns or keys `result_id`, `label` and optionally `face`; others are ignored.

    Raises:
        UsageError: the file cannot be read, has another layout, or labels one face in two ways.
    """
    try:
        text = decode_text(path.read_bytes())
    except (OSError, NotUtf8) as error:
        message = f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}"
        raise UsageError(message) from error
    found: dict[tuple[str, str | None], str] = {}
    for line, row in _read_lines(path, text) if path.suffix.lower() == ".jsonl" else _read_rows(path, text):
        result_id, face, label = (row.get(name) for name in LABELS.names)
        key = str(result_id or "").lower(), str(face) if face not in {None, ""} else None
        if not key[0] or label not in list(Label):
            message = (
                f"{path}, line {line}: a label needs a result_id and one of the labels {', '.join(Label)}, "
                f"not {label!r:.60}"
            )
            raise UsageError(message)
        if found.setdefault(key, str(label)) != label:
            message = f"{path}, line {line}: result {key[0]} is labelled {found[key]} above and {label} here"
            raise UsageError(message)
    return pa.Table.from_pylist(
        [dict(zip(LABELS.names, (*key, label), strict=True)) for key, label in found.items()], LABELS
    )


def _read_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    if missing := {"result_id", "label"} - set(reader.fieldnames or ()):
        message = (
            f"{path} has no column {' and no column '.join(sorted(missing))}: its first line must name the columns"
        )
        raise UsageError(message)
    for row in reader:
        yield reader.line_num, row


def _read_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            message = f"{path}, line {number} is not a JSON object"
            raise UsageError(message)
        yield number, row
