"""The least that each role needs for a recipe, compared with what was listed or found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scorer.decide import photographs_needed
from scorer.fitting.calibrate import RATES
from training.data.photos import ROLES, Role
from training.data.roles import Need
from training.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Minimum:
    """One requirement of a role.

    Attributes:
        role: the role.
        count: the least number.
        unit: of `count`.
        purpose: what is impossible with fewer.
    """

    role: Role
    count: int
    unit: Literal["sources", "photographs", "faces"]
    purpose: str


def list_minimums(recipe: Recipe) -> list[Minimum]:
    """Return the requirements of all roles, in the order of the roles."""
    rule = recipe.mixture
    least = min(shape.components for shape in rule.shapes)
    compared = len(rule.shapes) * len(rule.role_sets) > 1
    chosen = "selecting the checkpoint, and " if recipe.keeps == "best" else ""
    return [
        Minimum("train", recipe.batch_size, "faces", "one batch; `train --batch-size` sets a smaller one"),
        Minimum("fit", least, "faces", f"{chosen}a mixture with {least} or more components"),
        *([Minimum("fit", 2, "sources", "comparing mixtures on a held-out source")] if compared else []),
        *(
            Minimum("calibrate", photographs_needed(rate), "photographs", f"a false-alarm rate of {100 * rate:g} %")
            for rate in RATES
        ),
        Minimum("test", 2, "sources", "a control for every AUC"),
    ]


def list_needs(recipe: Recipe) -> dict[Role, Need]:
    """Return what the automatic split gives to each role if it can: the minimums, of several rates the first one.

    A photograph counts as one face.
    """
    needs = {}
    for role in ROLES:
        of_role = [minimum for minimum in list_minimums(recipe) if minimum.role == role]
        sources = [minimum.count for minimum in of_role if minimum.unit == "sources"]
        photographs = [minimum.count for minimum in of_role if minimum.unit != "sources"]
        needs[role] = Need(*(counts[0] if counts else 1 for counts in (sources, photographs)))
    return needs


def compare_minimums(minimums: Sequence[Minimum], counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Return the minimums as rows with the present number and whether it is enough.

    Args:
        minimums: the requirements.
        counts: present numbers by role and unit. Before faces are found, a photograph counts as one.
    """
    rows = []
    for minimum in minimums:
        of_role = counts.get(minimum.role, {})
        present = of_role.get(minimum.unit, of_role.get("photographs", 0))
        rows.append(asdict(minimum) | {"present": present, "enough": present >= minimum.count})
    return rows


def print_minimums(rows: Sequence[Mapping[str, Any]], title: str, console: Console) -> None:
    """Print the rows of `compare_minimums` as a table."""
    table = Table("role", "needed", "for", "present", "", title=title, title_justify="left", box=SIMPLE_HEAD)
    for row in rows:
        needed = f"{row['count']:,} {row['unit'] if row['count'] > 1 else row['unit'].removesuffix('s')}"
        table.add_row(
            row["role"], needed, row["purpose"], f"{row['present']:,}", "" if row["enough"] else "too few",
            style="" if row["enough"] else "yellow",
        )  # fmt: skip
    console.print(table)
