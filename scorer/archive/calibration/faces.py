"""The scored faces of a run: each once, with its photograph, group, stratum and label; and their features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scorer.archive.calibration.labels import LABELS, Label
from scorer.archive.folder import utf8_path
from scorer.archive.marks import CommitMark, read_marks
from scorer.archive.report.tables import open_tables
from scorer.archive.rows import RESULTS
from scorer.archive.run import RunFile, read_run
from scorer.errors import RunBroken, UsageError
from scorer.observe.printable import count_noun
from scorer.strata import Stratum

PHOTOGRAPH = "photograph"  # the group of each image's bytes
# A photograph is what has the same bytes. A face counts once: copies of a file have the same faces, and so has a file
# whose metadata were changed, because the log-likelihood of a picture is the same bit for bit.
_FACES = """
WITH scored AS (
  SELECT shard, position, face_id, coalesce(source, '') AS source, coalesce(camera, '') AS camera, p_value,
    log_likelihood, coalesce(sha256, content_id) AS photograph, coalesce(f.label, i.label) AS label,
    coalesce(stratum, '') AS stratum, {group} AS name, [log_likelihood, face_x, face_y, face_width, face_height] AS face
  FROM results
    LEFT JOIN labels f ON f.result_id = results.result_id AND f.face = results.face_id
    LEFT JOIN labels i ON i.result_id = results.result_id AND i.face IS NULL
  WHERE log_likelihood IS NOT NULL AND {known}
)
SELECT shard, position, face_id, source, camera, p_value, log_likelihood, photograph, stratum,
  CASE WHEN min(label) OVER copies IS DISTINCT FROM max(label) OVER copies THEN 'unsure'
    ELSE min(label) OVER copies END AS label,
  min(name) OVER (PARTITION BY photograph) AS "group"
FROM scored
WINDOW copies AS (PARTITION BY face)
QUALIFY row_number() OVER (PARTITION BY face ORDER BY shard, position, face_id) = 1
ORDER BY shard, position, face_id"""
_KNOWN = "(clip_frames IS NULL OR stratum IN ('video', 'small_video'))"  # tracks of animations have no stratum
_SCORED = f"SELECT count(*) AS faces FROM results WHERE log_likelihood IS NOT NULL AND {_KNOWN}"  # noqa: S608 - constants
_UNKNOWN_LABELS = "SELECT count(*) AS labels FROM labels WHERE result_id NOT IN (SELECT result_id FROM results)"


@dataclass(frozen=True, slots=True, eq=False)
class RunFaces:
    """The scored faces of a run, copies left out.

    Attributes:
        run: the description of the run.
        marks: of its shards.
        table: one row a face.
        copies: how many rows were left out, because a face of another row is the same.
        unknown_labels: how many labels name no result of the run.
    """

    run: RunFile
    marks: tuple[CommitMark, ...]
    table: pa.Table
    copies: int
    unknown_labels: int

    def __len__(self) -> int:
        return len(self.table)

    def select(self, mask: NDArray[np.bool_]) -> "RunFaces":
        """Return the faces where `mask` is true."""
        return replace(self, table=self.table.filter(pa.array(mask)))

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column of numbers [N]."""
        return np.asarray(self.table[column].to_numpy(), dtype=np.float64)

    def names(self, column: str) -> NDArray[np.str_]:
        """Return a column of names [N]."""
        return np.array(self.table[column].to_pylist(), dtype=np.str_)

    def codes(self, column: str) -> tuple[NDArray[np.int64], list[str]]:
        """Return a column of names as numbers [N] without gaps, and the names."""
        encoded = self.table[column].combine_chunks().dictionary_encode()
        return np.asarray(encoded.indices.to_numpy(), dtype=np.int64), encoded.dictionary.to_pylist()

    @property
    def is_track(self) -> NDArray[np.bool_]:
        """Which faces [N] are tracks of videos."""
        return np.isin(self.names("stratum"), [each.value for each in Stratum if each.is_video])

    def count(self, column: str) -> int:
        """Return the number of different values of a column."""
        return int(pc.count_distinct(self.table[column]).as_py())

    def labelled(self, *labels: Label) -> NDArray[np.bool_]:
        """Return which faces [N] have one of the labels."""
        found = pc.is_in(self.table["label"], pa.array([label.value for label in labels], pa.string()))
        return np.asarray(found.to_numpy(), dtype=np.bool_)

    def describe(self) -> str:
        """Return the numbers of faces, photographs and sources in words."""
        photographs, sources = self.count("photograph"), self.count("source")
        return (
            f"{count_noun(len(self), 'face')} of {count_noun(photographs, 'photograph')} "
            f"from {count_noun(sources, 'source')}"
        )


def read_faces(folder: Path, by: str = "source", labels: pa.Table | None = None) -> RunFaces:
    """Return the scored faces of the finished run in `folder`.

    Args:
        folder: the run's folder.
        by: "source", "photograph" or another column of the results: the group of a face.
        labels: see `read_labels`.

    Raises:
        UsageError: `folder` is not a run or not finished, has no such column, or no label names a result of it.
        RunBroken: a file that a mark names cannot be read.
    """
    run, marks = read_run(folder), tuple(read_marks(folder))
    if len(marks) < run.shards:
        message = f"{folder}: {len(marks)} of {run.shards} shards are committed: finish the scan first"
        raise UsageError(message)
    if by != PHOTOGRAPH and (by not in RESULTS.names or pa.types.is_list(RESULTS.field(by).type)):
        message = f"--by {by}: name source, {PHOTOGRAPH}, quality, or a column of the results, such as camera"
        raise UsageError(message)
    identity = "coalesce(sha256, content_id)"
    group = identity if by == PHOTOGRAPH else f"coalesce(nullif(CAST({by} AS VARCHAR), ''), {identity})"
    with open_tables() as tables:
        tables.add_run(folder, marks)
        tables.add_table("labels", LABELS.empty_table() if labels is None else labels)
        unknown = tables.fetch(_UNKNOWN_LABELS)[0]["labels"]
        if labels is not None and unknown == len(labels):
            message = f"none of the {len(labels)} labels names a result of {folder}: use the result_id of its results"
            raise UsageError(message)
        table = tables.read(_FACES.format(group=group, known=_KNOWN))
        scored = tables.fetch(_SCORED)[0]["faces"]
    return RunFaces(run, marks, table, scored - len(table), unknown)


def read_features(folder: Path, faces: RunFaces, size: int) -> NDArray[np.float32]:
    """Return the features [N, D] of faces.

    Args:
        folder: the run's folder.
        faces: whose features.
        size: D, the number of features of the run's bundle.

    Raises:
        UsageError: the run has no features.
        RunBroken: a file that a mark names cannot be read, or a face lacks features.
    """
    if not faces.run.options.get("keep_features"):
        message = (
            f"{folder} was scanned without --keep-features: scan again with it, or refit the calibration alone with "
            "--calibration-only"
        )
        raise UsageError(message)
    features = np.full((len(faces), size), np.nan, np.float32)
    shards = faces.table["shard"].to_numpy()
    keys = list(zip(faces.table["position"].to_pylist(), faces.table["face_id"].to_pylist(), strict=True))
    for mark in faces.marks:
        first, end = np.searchsorted(shards, [mark.shard, mark.shard + 1])
        rows = {key: row for row, key in enumerate(keys[first:end], first)}
        for name in mark.features if rows else ():
            _fill_features(features, rows, folder / "features" / name)
    if not np.isfinite(features).all():
        message = f"{folder / 'features'} does not have finite features for every scored face: scan again"
        raise RunBroken(message)
    return features


def _fill_features(features_ND: NDArray[np.float32], rows: dict[tuple[Any, Any], int], path: Path) -> None:
    size = features_ND.shape[1]
    try:
        with pq.ParquetFile(utf8_path(path)) as parquet:
            for batch in parquet.iter_batches():
                kept = batch.column("features")
                found = np.asarray(kept.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
                if set(np.diff(kept.offsets.to_numpy())) - {size}:
                    message = f"{path} has faces that do not have {size} features: it is of another bundle"
                    raise RunBroken(message)
                keys = zip(batch.column("position").to_pylist(), batch.column("face_id").to_pylist(), strict=True)
                pairs = [(rows[key], number) for number, key in enumerate(keys) if key in rows]
                _copy_rows(features_ND, found.reshape(-1, size), pairs)
    except (OSError, KeyError, pa.ArrowException) as error:
        message = f"{path} cannot be read, though a commit mark names it; features that were deleted need a new scan"
        raise RunBroken(message) from error


def _copy_rows(target: NDArray[np.float32], source: NDArray[np.float32], pairs: Sequence[tuple[int, int]]) -> None:
    if pairs:
        to, of = np.array(pairs).T
        target[to] = source[of]
