"""Labels that reviewers gave to a run's results: a CSV or JSONL file of result ids and labels."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa

from scorer.errors import UsageError
from scorer.text_files import NotUtf8, decode_text

LABEL_FILE = "labels.jsonl"  # in the folder of a run: what `unlensed review` saves
LABELS = pa.schema([("result_id", pa.string()), ("face", pa.string()), ("label", pa.string())])


class Label(StrEnum):
    """What a reviewer says of a face; an unsure one counts neither as a photograph nor as generated."""

    PHOTOGRAPH = "photograph"
    GENERATED = "generated"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A line of a file of labels; `face` is None for all faces of the image."""

    line: int
    result_id: str
    face: str | None
    label: str
    reviewer: str | None


def read_labels(path: Path) -> pa.Table:
    """Return a file's labels, one a row; `face` is a `face_id`, or null for all faces of the image.

    The file has the columns or keys `result_id`, `label` and optionally `face` and `reviewer`; others are ignored. The
    last label of a reviewer counts, and a face that reviewers label in two ways is unsure.

    Raises:
        UsageError: the file cannot be read, has another layout, or labels one face in two ways without a reviewer.
    """
    found: dict[tuple[str, str | None], dict[str | None, str]] = defaultdict(dict)
    for row in read_rows(path):
        labels = found[row.result_id, row.face]
        if row.reviewer is None and labels.get(None, row.label) != row.label:
            message = (
                f"{path}, line {row.line}: result {row.result_id} is labelled {labels[None]} above and {row.label} here"
            )
            raise UsageError(message)
        labels[row.reviewer] = row.label
    rows = [(*key, _agree(set(labels.values()))) for key, labels in found.items()]
    return pa.Table.from_pylist([dict(zip(LABELS.names, row, strict=True)) for row in rows], LABELS)


def _agree(labels: set[str]) -> str:
    return labels.pop() if len(labels) == 1 else Label.UNSURE


def read_rows(path: Path) -> Iterator[LabelRow]:
    """Yield the lines of a file of labels.

    Raises:
        UsageError: the file cannot be read, or has another layout.
    """
    try:
        text = decode_text(path.read_bytes())
    except (OSError, NotUtf8) as error:
        message = f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}"
        raise UsageError(message) from error
    for line, row in _read_lines(path, text) if path.suffix.lower() == ".jsonl" else _read_csv(path, text):
        result_id, face, label, reviewer = (row.get(name) for name in (*LABELS.names, "reviewer"))
        if not result_id or label not in list(Label):
            message = (
                f"{path}, line {line}: a label needs a result_id and one of the labels {', '.join(Label)}, "
                f"not {label!r:.60}"
            )
            raise UsageError(message)
        of_face = str(face) if face not in {None, ""} else None
        yield LabelRow(line, str(result_id).lower(), of_face, str(label), str(reviewer) if reviewer else None)


def _read_csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
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
