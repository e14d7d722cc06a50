"""The faces of a run that are reviewed: the least typical first, each once."""

from pathlib import Path

from scorer.archive.marks import read_marks
from scorer.archive.report.figures import Face
from scorer.archive.report.tables import open_tables
from scorer.archive.run import read_run

_FACES = """
SELECT result_id, shard, content_id, source, uri, span_offset, span_size, sha256, media_type, camera, jpeg_quality,
  coalesce(resampled, []) AS resampled, face_id, face_x, face_y, face_width, face_height, log_likelihood, p_value,
  face_decision, decision, reason_codes
FROM results WHERE log_likelihood IS NOT NULL AND clip_frames IS NULL
QUALIFY row_number() OVER (PARTITION BY coalesce(sha256, content_id), face_id ORDER BY shard, content_id) = 1
ORDER BY log_likelihood, content_id, face_id LIMIT $1"""


class ReviewedFace(Face):
    """A face of a result; `decision` and `reason_codes` are its image's."""

    result_id: str
    decision: str
    reason_codes: tuple[str, ...]


def list_faces(folder: Path, most: int) -> list[ReviewedFace]:
    """Return at most `most` scored faces of a run, finished or not; copies of an image and clips are left out.

    Raises:
        UsageError: `folder` is not a run.
        RunBroken: a file that a mark names cannot be read.
    """
    read_run(folder)
    with open_tables() as tables:
        tables.add_run(folder, list(read_marks(folder)))
        return [ReviewedFace(**row) for row in tables.fetch(_FACES, [most])]
