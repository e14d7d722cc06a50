"""What a run's folder says of itself: `run.json` and the commit marks. Only files that a mark names count."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from scorer.decide import Policy
from scorer.messages import describe_problems
from scorer.paths import UsageError

_MARK = re.compile(r"\d{5,}\.json")
# A plain name: a folder from elsewhere must not make a report read another file.
PartName = Annotated[str, StringConstraints(pattern=r"^part-\d{5,}(\.\d+)?\.parquet$")]
Count = Annotated[int, Field(ge=0)]


class RunBroken(ValueError):
    """A run's folder is not what its marks say; the sentence names the file."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer release may say more


class CommitMark(_Section):
    """`_stats/NNNNN.json`: a shard is committed.

    Attributes:
        shard: its index.
        results, errors: names of its files in the folders of those names.
        images, faces, failed: how many images were answered for, faces found in them, and images that could not be
            scored.
        started_at, finished_at: when it was worked on.
        stage_s: seconds that each stage was busy, over all threads.
    """

    shard: Count
    results: tuple[PartName, ...]
    errors: tuple[PartName, ...]
    images: Count
    faces: Count
    failed: Count
    started_at: datetime
    finished_at: datetime
    stage_s: dict[str, float]


class RunFacts(_Section):
    """What a report needs of `run.json`."""

    bundle_id: str
    bundle_digest: str
    policy: Policy
    shards: Count


def read_run(folder: Path) -> RunFacts:
    """Return what `run.json` says.

    Raises:
        UsageError: there is none, so `folder` is no run.
        RunBroken: it cannot be understood.
    """
    path = folder / "run.json"
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{folder} holds no run.json: name the folder that `unlensed scan --out` wrote"
        raise UsageError(message) from error
    try:
        return RunFacts.model_validate_json(text)
    except ValidationError as error:
        message = f"{path} is no run's description: {describe_problems(error)}"
        raise RunBroken(message) from error


def read_marks(folder: Path) -> Iterator[CommitMark]:
    """Yield the commit marks in the order of their shards.

    Raises:
        RunBroken: one cannot be understood.
    """
    stats = folder / "_stats"
    names = sorted(path.name for path in stats.iterdir()) if stats.is_dir() else []
    for name in names:
        if not _MARK.fullmatch(name):
            continue  # a killed process's rest
        try:
            yield CommitMark.model_validate_json((stats / name).read_bytes())
        except ValidationError as error:
            message = f"{stats / name} is no commit mark: {describe_problems(error)}; delete it and scan again"
            raise RunBroken(message) from error
