"""Assign a role to each source of photographs: train, fit, calibrate or test.

Roles belong to sources, never to faces. A split by face would put one camera, place or person into two roles.
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

    A slash in a source's name is replaced with a plus sign, as in the folder's name.

    Raises:
        ValueError: a column is missing, or a role is not one of train, fit, calibrate, test.
    """
    with table.open(newline="", encoding="utf-8") as handle:
        table_rows = csv.DictReader(handle)
        columns = table_rows.fieldnames or []
        key = next((name for name in ("source", "repo") if name in columns), None)
        if key is None or "role" not in columns:
            message = f"{table}: the columns are {', '.join(columns) or 'missing'}; it must have `source` and `role`"
            raise ValueError(message)
        rows = {row[key].replace("/", "+"): row["role"] for row in table_rows}
    for source, role in rows.items():
        if role not in ROLES:
            message = f"{table}: source {source} has role {role!r}; use one of {', '.join(ROLES)}"
            raise ValueError(message)
    return cast("dict[str, Role]", rows)


def read_shares(text: str) -> dict[Role, float]:
    """Return the shares of a text like `train=0.7,fit=0.1,calibrate=0.1,test=0.1`; a missing role has the share 0.

    Raises:
        ValueError: a name is no role, a share is not between 0 and 1, or the sum is not 1.
    """
    shares: dict[Role, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if name.strip() not in ROLES or not 0 <= share <= 1:
            message = f"share {part!r} is not ROLE=SHARE with a role of {', '.join(ROLES)} and a share from 0 to 1"
            raise ValueError(message)
        shares[cast("Role", name.strip())] = share
    if abs(sum(shares.values()) - 1) > SHARES_TOLERANCE:
        message = f"the shares {text!r} add up to {sum(shares.values()):g}; they must add up to 1"
        raise ValueError(message)
    return shares


def choose_role(source: str, shares: Mapping[Role, float]) -> Role:
    """Return the role of a source by a hash of its name: the same on every machine and for every set of inputs."""
    position = int.from_bytes(hashlib.sha256(source.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
    reached = 0.0
    role: Role = "train"
    for role in (name for name in ROLES if shares.get(name, 0) > 0):
        reached += shares[role]
        if position < reached:
            break
    return role


@dataclass(slots=True)
class RoleRule:
    """Assigns one role to each source and refuses a second one.

    Attributes:
        table: roles by source; a source that is not in the table is left out, unless the input proposes a role.
        shares: share of the sources for each role, used if there is no table and the input proposes no role.
    """

    table: Mapping[str, Role] | None = None
    shares: Mapping[Role, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    _assigned: dict[str, Role] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Path | None, shares: str) -> Self:
        """Return the rule of a table, or else of shares; raises what `read_roles` and `read_shares` raise."""
        return cls(table=read_roles(table)) if table else cls(shares=read_shares(shares))

    def assign(self, photo: Photo) -> Role | None:
        """Return the photograph's role, or None if it has none.

        Raises:
            ValueError: its source already has another role.
        """
        role = self._propose(photo)
        if role is not None and self._assigned.setdefault(photo.source, role) != role:
            message = (
                f"source {photo.source!r} would have two roles, {self._assigned[photo.source]} and {role}: "
                "give it one role in the roles table"
            )
            raise ValueError(message)
        return role

    def _propose(self, photo: Photo) -> Role | None:
        if self.table is not None:
            return self.table.get(photo.source, photo.role)
        return photo.role or choose_role(photo.source, self.shares)
