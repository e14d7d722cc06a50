"""Assign a role to each source of photographs: train, fit, calibrate or test.

Roles belong to sources, never to faces. A split by face would put one camera, place or person into two roles.
"""

import csv
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast

from training.data.photos import ROLES, Role

DEFAULT_SHARES: Mapping[Role, float] = {"train": 0.7, "fit": 0.1, "calibrate": 0.1, "test": 0.1}
SHARES_TOLERANCE = 1e-6
MAX_NAMED = 5  # in an error message


@dataclass(frozen=True, slots=True)
class Need:
    """The numbers of sources and of photographs that a role needs."""

    sources: int = 1
    photographs: int = 1

    def is_met(self, role: Role, roles: Mapping[str, Role], photographs: Mapping[str, int]) -> bool:
        """Return whether the sources with `role` are enough."""
        counts = [photographs[name] for name, of in roles.items() if of == role]
        return len(counts) >= self.sources and sum(counts) >= self.photographs


def read_roles(table: Path) -> dict[str, Role]:
    """Return the role of each entry of a CSV with the columns `source` (or `repo`) and `role`.

    Raises:
        ValueError: the file is no such table, a role is not one of train, fit, calibrate, test, or an entry has two.
    """
    roles: dict[str, Role] = {}
    try:
        # The name of a folder is any bytes. Some editors write a mark before the first character.
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as handle:
            rows = csv.DictReader(handle)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            key = next((name for name in ("source", "repo") if name in rows.fieldnames), None)
            if key is None or "role" not in rows.fieldnames:
                columns = ", ".join(rows.fieldnames) or "missing"
                message = f"{table}: the columns are {columns}; it must have `source` and `role`"
                raise ValueError(message)
            for row in rows:
                source, role = row[key], (row["role"] or "").strip()
                if role not in ROLES:
                    message = f"{table}: source {source!r} has role {role!r}; use one of {', '.join(ROLES)}"
                    raise ValueError(message)
                if roles.setdefault(source, cast("Role", role)) != role:
                    message = f"{table}: source {source!r} has two roles, {roles[source]} and {role}: delete one"
                    raise ValueError(message)
    except csv.Error as error:
        message = f"{table} is no CSV table: {error}"
        raise ValueError(message) from error
    return roles


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


def hash_position(name: str) -> float:
    """Return a number from 0 to 1 that depends on `name` only: the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64


def split_sources(
    photographs: Mapping[str, int], shares: Mapping[Role, float], needs: Mapping[Role, Need], given: Mapping[str, Role]
) -> dict[str, Role]:
    """Return the role of each source by a hash of its name, changed only where a role would have too little.

    The roles divide the range of the hash by their shares. A role without a source then gets one, next the sources that
    it needs, then the photographs that it needs, if other roles can give them and keep enough (see `choose_donor`).

    Args:
        photographs: number of each source's photographs.
        shares: a role with the share 0 gets no source.
        needs: of the roles.
        given: sources of `photographs` whose role is decided.
    """
    parts: dict[Role, tuple[float, float]] = {}
    reached = 0.0
    for role in (name for name in ROLES if shares.get(name, 0) > 0):
        parts[role] = (reached, reached + shares[role])
        reached += shares[role]
    last = list(parts)[-1]
    positions = {name: hash_position(name) for name in photographs if name not in given}
    roles = dict(given) | {
        name: next((role for role, (_, end) in parts.items() if position < end), last)
        for name, position in positions.items()
    }
    some = {role: needs.get(role, Need()) for role in ROLES}
    sources_only = {role: Need(need.sources, 0) for role, need in some.items()}
    for level in (dict.fromkeys(ROLES, Need(1, 0)), sources_only, some):
        for role, (start, end) in parts.items():
            distances = {name: max(start - place, place - end) for name, place in positions.items()}
            moved: dict[str, Role] = dict(roles)
            while not level[role].is_met(role, moved, photographs):
                donor = choose_donor(role, moved, photographs, level, distances)
                if donor is None:
                    break
                moved[donor] = role
            else:  # a role that cannot have enough takes nothing
                roles = moved
    return roles


def choose_donor(
    role: Role,
    roles: Mapping[str, Role],
    photographs: Mapping[str, int],
    needs: Mapping[Role, Need],
    distances: Mapping[str, float],
) -> str | None:
    """Return the source that should move to `role`; None if no other role can give one.

    It is a source of the role with the most photographs that keeps what it needs, and of these sources the one with the
    least distance.
    """
    sources, amounts = Counter(roles.values()), Counter[Role]()
    for name, of in roles.items():
        amounts[of] += photographs[name]
    donors = [
        name
        for name in distances
        if (of := roles[name]) != role
        and sources[of] > needs[of].sources
        and amounts[of] - photographs[name] >= needs[of].photographs
    ]
    return min(donors, key=lambda name: (-amounts[roles[name]], distances[name], name), default=None)


def fold_name(name: str) -> str:
    """Return a name as a folder can have it: composed characters, and `+` for `/`."""
    return unicodedata.normalize("NFC", name).replace("/", "+")


@dataclass(slots=True)
class RoleRule:
    """Assigns one role to each source.

    Attributes:
        table: roles by entry; a source without an entry is left out, unless the input proposes a role.
        shares: share of the sources for each role, used if there is no table and the input proposes no role.
    """

    table: Mapping[str, Role] | None = None
    shares: Mapping[Role, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    _folded: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.table or ():
            self._folded.setdefault(fold_name(name), []).append(name)

    @classmethod
    def read(cls, table: Path | None, shares: str) -> Self:
        """Return the rule of a table, or else of shares; raises what `read_roles` and `read_shares` raise."""
        return cls(table=read_roles(table)) if table else cls(shares=read_shares(shares))

    def find_entries(self, source: str) -> list[str]:
        """Return the table's entries for a source: the one with its name, else those with its name as a folder."""
        return [source] if source in (self.table or ()) else self._folded.get(fold_name(source), [])

    def covers(self, source: str, proposed: Role | None) -> bool:
        """Return whether a source gets a role."""
        return self.table is None or proposed is not None or bool(self.find_entries(source))

    def assign(
        self, photographs: Mapping[str, int], proposed: Mapping[str, Role], needs: Mapping[Role, Need]
    ) -> dict[str, Role]:
        """Return the role of each source that has one.

        Args:
            photographs: number of photographs of each source.
            proposed: roles that the inputs propose; a table precedes them.
            needs: see `split_sources`.

        Raises:
            ValueError: entries of the table name no source, or give a source two roles.
        """
        if self.table is None:
            return split_sources(photographs, self.shares, needs, proposed)
        roles, unused = dict(proposed), dict.fromkeys(self.table)
        for source in photographs:
            entries = self.find_entries(source)
            if len({self.table[entry] for entry in entries}) > 1:
                message = f"the roles table gives source {source!r} two roles, by its entries {list_names(entries)}"
                raise ValueError(message)
            for entry in entries:
                roles[source] = self.table[entry]
                unused.pop(entry, None)
        if unused:
            without = [source for source in photographs if source not in roles]
            message = (
                f"{len(unused)} of {len(self.table)} entries of the roles table name no source of the inputs: "
                f"{list_names(unused)}. The inputs have {len(photographs)} sources"
                f"{', of these without a role' if without else ''}: {list_names(without or photographs)}. "
                "Correct the names, delete their rows, or add their photographs"
            )
            raise ValueError(message)
        return roles


def list_names(names: Collection[str]) -> str:
    """Return the first names in quotes, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - MAX_NAMED} more" if len(ordered) > MAX_NAMED else ""
    return ", ".join(map(repr, ordered[:MAX_NAMED])) + more
