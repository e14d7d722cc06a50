"""What each photograph is used for. Roles go to sources, never to faces.

Splitting by face would let one camera, place or person sit on both sides.
"""

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast

from training.data.photos import ROLES, Photo, Role

DEFAULT_SHARES: Mapping[Role, float] = {"train": 0.7, "fit": 0.1, "calibrate": 0.1, "test": 0.1}
SHARES_TOLERANCE = 1e-6


def read_roles(table: Path) -> dict[str, Role]:
    """Return the role of each source from a CSV with the columns `source` (or `repo`) and `role`.

    A slash in a source's name stands for the plus sign of its folder.

    Raises:
        ValueError: a column is missing, or a role is not one of train, fit, calibrate, test.
    """
    with table.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        columns = reader.fieldnames or []
        key = next((name for name in ("source", "repo") if name in columns), None)
        if key is None or "role" not in columns:
            message = f"{table}: the columns are {', '.join(columns) or 'missing'}; it must have `source` and `role`"
            raise ValueError(message)
        rows = {row[key].replace("/", "+"): row["role"] for row in reader}
    for source, role in rows.items():
        if role not in ROLES:
            message = f"{table}: source {source} has role {role!r}; use one of {', '.join(ROLES)}"
            raise ValueError(message)
    return cast("dict[str, Role]", rows)


def read_shares(text: str) -> dict[Role, float]:
    """Return the shares of `train=0.7,fit=0.1,calibrate=0.1,test=0.1`; a role that is not named gets none.

    Raises:
        ValueError: a name is no role, a share is no number of 0 to 1, or they do not add up to 1.
    """
    shares: dict[Role, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if name.strip() not in ROLES or not 0 <= share <= 1:
            message = f"share {part!r} is not ROLE=SHARE with one of {', '.join(ROLES)} and a share of 0 to 1"
            raise ValueError(message)
        shares[cast("Role", name.strip())] = share
    if abs(sum(shares.values()) - 1) > SHARES_TOLERANCE:
        message = f"the shares {text!r} add up to {sum(shares.values()):g}; they must add up to 1"
        raise ValueError(message)
    return shares


def draw_role(source: str, shares: Mapping[Role, float]) -> Role:
    """Return the role of a source by a hash of its name: the same on every machine, whatever else is prepared."""
    place = int.from_bytes(hashlib.sha256(source.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
    reached = 0.0
    role: Role = "train"
    for role in (name for name in ROLES if shares.get(name, 0) > 0):
        reached += shares[role]
        if place < reached:
            break
    return role


@dataclass(slots=True)
class RoleRule:
    """Gives each source its role and sees to it that it gets no second one.

    Attributes:
        table: roles by source; a source that is not in it is left out, unless its layout proposes a role.
        shares: of the sources by role, where there is no table and the layout proposes none.
    """

    table: Mapping[str, Role] | None = None
    shares: Mapping[Role, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    _given: dict[str, Role] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Path | None, shares: str) -> Self:
        """Return the rule of a table, or of shares where there is none; raises as `read_roles`, `read_shares` do."""
        return cls(table=read_roles(table)) if table else cls(shares=read_shares(shares))

    def assign(self, photo: Photo) -> Role | None:
        """Return the photograph's role, or None when it serves none.

        Raises:
            ValueError: its source serves another role already.
        """
        role = self._propose(photo)
        if role is not None and self._given.setdefault(photo.source, role) != role:
            message = (
                f"source {photo.source!r} would serve both {self._given[photo.source]} and {role}: "
                "give it one role in the roles table"
            )
            raise ValueError(message)
        return role

    def _propose(self, photo: Photo) -> Role | None:
        if self.table is not None:
            return self.table.get(photo.source, photo.role)
        return photo.role or draw_role(photo.source, self.shares)
