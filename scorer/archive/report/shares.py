"""Shares with their intervals, and groups of faces, of which the rare ones are combined."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

MAX_GROUPS = 30
MIN_GROUP_FACES = 20  # with fewer faces the interval covers nearly half of all values
_NORMAL_95 = 1.959963984540054


class ReportModel(BaseModel):
    """A part of a summary or comparison: immutable, and NaN is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Share(ReportModel):
    """`count` of `of`, with Wilson's 95 % interval; the three rates are None if `of` is 0."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None


class Group(ReportModel):
    """The scored faces of one source or camera, or of all combined ones; `folded` counts the latter, otherwise 0."""

    name: str
    folded: int
    flagged: Share


def find_share(count: int, of: int, cases: int) -> Share:
    """Return `count / of` with Wilson's interval for `cases` independent cases: faces of one image are one case."""
    if not of or not cases:
        return Share(count=count, of=of, value=None, low=None, high=None)
    share, z, n = count / of, _NORMAL_95, min(cases, of)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - half if count else 0.0), (centre + half if count < of else 1.0)  # exact despite rounding
    return Share(count=count, of=of, value=share, low=low, high=high)


def read_groups(rows: Iterable[Mapping[str, Any]]) -> tuple[Group, ...]:
    """Return groups from rows of `name` (None: combined), `groups`, `images`, `faces` and `hits`."""
    return tuple(
        Group(
            name=row["name"] or "",
            folded=row["groups"] if row["name"] is None else 0,
            flagged=find_share(int(row["hits"]), int(row["faces"]), int(row["images"])),
        )
        for row in sort_groups(rows)
    )


def sort_groups(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows of groups with most faces first, and the combined group last."""
    return sorted(rows, key=lambda row: (row["name"] is None, -row["faces"], row["name"] or ""))
