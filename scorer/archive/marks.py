"""Commit marks, `_stats/NNNNN.json`: only files that a mark names count."""

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
# A plain name: a folder from elsewhere must not make a report read another file.
PartName = Annotated[str, StringConstraints(pattern=r"^part-\d{5,}(\.\d+)?\.parquet$")]
Count = Annotated[int, Field(ge=0)]


class _MarkSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer release may say more


class PartFile(_MarkSection):
    """A Parquet file of a shard."""

    rows: Count
    sha256: str


class WorkInterval(_MarkSection):
    """A time in which a shard was worked on."""

    started_at: datetime
    finished_at: datetime


class CommitMark(_MarkSection):
    """A shard is committed.

    Attributes:
        shard: its index.
        generation: how often failed images were tried again; later files have it in their names.
        results, errors: its files in the folders of those names.
        images: how many were answered for.
        faces: found in them.
        no_face, flag, review, passed, failed: images by their answer; together they are all. An image of whose faces
            none could be scored counts under review.
        retryable: failed images that another try may score.
        spells: the first work on it and each further try; between them it waited.
        stage_s: seconds that each stage was busy, over all threads and spells.
        bundle_digest: of the bundle that scored.
        left_out: what the shard's tar or manifest holds besides images, by `LeftOut`.
    """

    shard: Count
    generation: Count
    results: dict[PartName, PartFile]
    errors: dict[PartName, PartFile]
    images: Count
    faces: Count
    no_face: Count
    failed: Count
    retryable: Count
    flag: Count
    review: Count
    passed: Annotated[Count, Field(alias="pass")]
    spells: tuple[WorkInterval, ...]
    stage_s: dict[str, float]
    bundle_digest: str
    left_out: dict[str, Count] = Field(default_factory=dict)  # absent in the marks of older releases

    @property
    def paths(self) -> set[str]:
        """The shard's files, below the run's folder."""
        return {f"results/{name}" for name in self.results} | {f"errors/{name}" for name in self.errors}

    @property
    def counts(self) -> dict[str, int]:
        """The numbers that `COUNTS` names."""
        return self.model_dump(by_alias=True, include={*COUNTS, "passed"})


def list_committed(folder: Path) -> list[int]:
    """Return the indexes of the committed shards, ascending."""
    stats = folder / "_stats"
    names = [path.name for path in stats.iterdir()] if stats.is_dir() else []
    matches = map(_MARK.fullmatch, names)  # what is no mark is a killed process's rest
    return sorted(int(match[1]) for match in matches if match)


def read_mark(folder: Path, shard: int) -> CommitMark | None:
    """Return a shard's commit mark, or None while it is not committed.

    Raises:
        RunBroken: the mark cannot be understood.
    """
    path = folder / "_stats" / mark_name(shard)
    try:
        return CommitMark.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        message = f"{path} is no commit mark of this release ({describe_problems(error)}): delete it and scan again"
        raise RunBroken(message) from error


def read_marks(folder: Path) -> Iterator[CommitMark]:
    """Yield the commit marks in the order of their shards.

    Raises:
        RunBroken: one cannot be understood.
    """
    for shard in list_committed(folder):
        if mark := read_mark(folder, shard):
            yield mark
