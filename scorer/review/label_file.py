"""The file of labels in a run: a line for each decision of a reviewer, as `unlensed calibrate --labels` reads it."""

import json
import os
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from scorer.archive.calibration.labels import LABEL_FILE, Label, read_rows
from scorer.review.faces import ReviewedFace


class LabelFile:
    """Appends labels; several reviewers may write to one file at the same time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LABEL_FILE

    def append(self, face: ReviewedFace, label: Label, reviewer: str) -> None:
        """Write a label to the disk; a later one of the same reviewer replaces it.

        Raises:
            OSError: it cannot be written.
        """
        row = {
            "result_id": face.result_id,
            "face": face.face_id,
            "label": label,
            "reviewer": reviewer,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        line = json.dumps(row).encode() + b"\n"
        # One write at the end of the file: the lines of two reviewers do not mix.
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self) -> dict[tuple[str, str], dict[str, str]]:
        """Return the labels of each face (result_id, face_id) by reviewer.

        Raises:
            UsageError: the file has another layout.
        """
        found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        if self._path.exists():
            for row in read_rows(self._path):
                found[row.result_id, row.face or ""][row.reviewer or ""] = row.label
        return found
