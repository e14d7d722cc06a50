"""Commit marks, `_stats/NNNNN.json`: a shard's files count only if its mark names them."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from scorer.archive.folder import mark_name
from scorer.errors import RunBroken
from scorer.messages import describe_problems

COUNTS = ("images", "faces", "no_face", "failed", "retryable", "flag", "review", "pass")
_MARK = re.compile(r"(\d{5,})\.json")
# A plain file name: the mark in a run's folder of unknown origin must not make a report read another file.
PartName = Annotated[str, StringConstraints(pattern=r"^part-\d{5,}(\.\d+)?\.parquet$")]
Count = Annotated[int, Field(ge=0)]


class _MarkSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)  # a newer release may add fields


class PartFile(_MarkSection):
    """A Parquet file of a shard."""

    rows: Count
    sha256: str


class WorkInterval(_MarkSection):
    """An interval in which a process worked on a shard."""

    started_at: datetime
    finished_at: datetime


class CommitMark(_MarkSection):
    """A shard is committed.

    Attributes:
        shard: its index.
        generation: how often its failed images were retried or images erased; the names of later files contain it.
        results, errors, features: its files in the folders of those names; features only where the run keeps them.
        images: how many have a row.
        faces: found in them.
        no_face, flag, review, passed, failed: images by outcome; their sum is `images`. An image with faces of which
            none could be scored counts under review.
        retryable: failed images that a retry may score.
        work_intervals: the first work on the shard and each retry; `spells` in the file.
        stage_s: seconds that each stage was busy, over all threads and work intervals.
        bundle_digest: of the bundle that scored.
        left_out: what the shard's tar or manifest contains besides images, by `LeftOut`.
    """

    shard: Count
    generation: Count
    results: dict[PartName, PartFile]
    errors: dict[PartName, PartFile]
    features: dict[PartName, PartFile] = Field(default_factory=dict)
    images: Count
    faces: Count
    no_face: Count
    failed: Count
    retryable: Count
    flag: Count
    review: Count
    passed: Annotated[Count, Field(alias="pass")]
    work_intervals: Annotated[tuple[WorkInterval, ...], Field(alias="spells")]
    stage_s: dict[str, float]
    bundle_digest: str
    left_out: dict[str, Count] = Field(default_factory=dict)  # absent in the marks of older releases

    @property
    def paths(self) -> set[str]:
        """The shard's files, below the run's folder."""
        kinds = {"results": self.results, "errors": self.errors, "features": self.features}
        return {f"{kind}/{name}" for kind, files in kinds.items() for name in files}

    @property
    def counts(self) -> dict[str, int]:
        """The counts whose names are in `COUNTS`."""
        return self.model_dump(by_alias=True, include={*COUNTS, "passed"})


def needs_work(mark: CommitMark | None, *, retry_failed: bool) -> bool:
    """Return whether a shard with this mark is to be scanned."""
    return mark is None or (retry_failed and mark.retryable > 0)


def list_committed(folder: Path) -> list[int]:
    """Return the indexes of the committed shards, ascending."""
    stats = folder / "_stats"
    names = [path.name for path in stats.iterdir()] if stats.is_dir() else []
    matches = map(_MARK.fullmatch, names)  # other files are left from killed processes
    return sorted(int(match[1]) for match in matches if match)


def read_mark(folder: Path, shard: int) -> CommitMark | None:
    """Return a shard's commit mark, or None while it is not committed.

    Raises:
        RunBroken: the mark is not valid.
    """
    path = folder / "_stats" / mark_name(shard)
    try:
        return CommitMark.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        message = f"{path} is not a commit mark of this release ({describe_problems(error)}): delete it and scan again"
        raise RunBroken(message) from error


def read_marks(folder: Path) -> Iterator[CommitMark]:
    """Yield the commit marks in the order of their shards.

    Raises:
        RunBroken: a mark is not valid.
    """
    for shard in list_committed(folder):
        if mark := read_mark(folder, shard):
            yield mark
