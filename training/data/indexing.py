"""The last part of `prepare`: remove duplicates, write the index of each role, report counts and warnings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ingest.exif import TAG_NAMES
from training.data.chunks import ChunkRecord
from training.data.inputs import Inputs
from training.data.minimums import compare_minimums, list_minimums, print_minimums
from training.data.near_duplicates import find_distinct, find_distinct_photos
from training.data.photos import ROLES
from training.data.roles import MAX_NAMED
from training.data.shards import read_tables, write_index
from training.recipes import Recipe

COLUMNS = (
    "tags", "photos", "sources", "cameras", "short_sides",
    "photo_numbers", "photo_bytes", "photo_hashes", "face_hashes",
)  # fmt: skip
CHUNK_PHOTOS = 1 << 20  # more than the photographs of any chunk, so that the photograph ids are unique
MAX_ROWS = 25
MIN_UNTAGGED_FACES = 20  # no warning about a source with fewer faces

Columns = dict[str, NDArray[Any]]


def index_run(run: Path, records: Sequence[ChunkRecord], inputs: Inputs, recipe: Recipe) -> dict[str, Any]:
    """Write the index of each role and return the content of `prepare.json`."""
    shards: dict[str, list[str]] = {
        role: [f"{number:06}" for number, record in enumerate(records) if record.faces.get(role)] for role in ROLES
    }
    tables: dict[str, Columns] = {}
    for role in ROLES:
        if shards[role]:
            tables[role] = read_tables([run / "faces" / role / name for name in shards[role]], COLUMNS)
            counts = [record.faces[role] for record in records if record.faces.get(role)]
            chunk = np.repeat([int(name) for name in shards[role]], counts)
            tables[role]["photo_ids"] = chunk * CHUNK_PHOTOS + tables[role]["photo_numbers"]
    dropped: Counter[tuple[str, str]] = Counter()
    for record in records:
        for source, reason, count in record.dropped:
            dropped[source, reason] += count
    used = choose_faces(tables, dropped)
    for name, rows in used.items():
        write_index(run, name, shards[name], [record.faces[name] for record in records if record.faces.get(name)], rows)
        tables[name] = {column: values[rows] for column, values in tables[name].items()}
    facts = describe_run(records, inputs, tables, dropped)
    minimums = compare_minimums(list_minimums(recipe), facts["roles"])
    return facts | {"minimums": minimums, "warnings": list_warnings(tables)}


def choose_faces(tables: dict[str, Columns], dropped: Counter[tuple[str, str]]) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each role without duplicates; count the duplicates in `dropped`.

    Photographs are compared across all roles, so that no photograph of one role appears in another. Faces are compared
    within each role.
    """
    if not tables:
        return {}
    names = ("photo_hashes", "photo_bytes", "sources")
    merged = {name: np.concatenate([table[name] for table in tables.values()]) for name in names}
    ids = np.concatenate([table["photo_ids"] for table in tables.values()])
    numbers, first = np.unique(ids, return_index=True)
    kept = find_distinct_photos(merged["photo_hashes"][first], merged["photo_bytes"][first])
    for source in np.delete(merged["sources"][first], kept):
        dropped[str(source), "near_duplicate"] += 1
    used = {}
    for role, table in tables.items():
        rows = np.flatnonzero(np.isin(table["photo_ids"], numbers[kept]))
        distinct = find_distinct(table["face_hashes"][rows], table["short_sides"][rows], table["sources"][rows])
        for source in np.delete(table["sources"][rows], distinct):
            dropped[str(source), "face_repeated"] += 1
        used[role] = rows[distinct]
    return used


def describe_run(
    records: Sequence[ChunkRecord], inputs: Inputs, tables: dict[str, Columns], dropped: Counter[tuple[str, str]]
) -> dict[str, Any]:
    """Return counts of the run, by role and by source; `tables` contains the faces in use."""
    refused: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for record in records:
        for _, tag, count in record.refused:
            refused[tag] += count
    sources: dict[str, dict[str, Any]] = {}
    for role, table in tables.items():
        names, faces = np.unique(table["sources"], return_counts=True)
        for name, count in zip(names.tolist(), faces.tolist(), strict=True):
            sources[name] = {"role": role, "faces": count, "dropped": {}}
    for (source, reason), count in sorted(dropped.items()):
        without_face: dict[str, Any] = {"role": inputs.roles.get(source), "faces": 0, "dropped": {}}
        sources.setdefault(source, without_face)["dropped"][reason] = count
        reasons[reason] += count
    return {
        "photographs": sum(record.photos for record in records),
        "faces": sum(len(table["photos"]) for table in tables.values()),
        "dropped": dict(reasons),
        "refused_tags": dict(refused),
        "without_role": dict(inputs.without_role),
        "left_out_by_layout": [[name, reason, count] for (name, reason), count in inputs.skipped.items()],
        "roles": {role: describe_role(table) for role, table in tables.items()},
        "sources": sources,
    }


def describe_role(table: Columns) -> dict[str, Any]:
    """Return the counts of one role's faces."""
    cameras = Counter(table["cameras"].tolist())
    cameras.pop("", None)
    present = (~np.isnan(table["tags"])).sum(axis=0).tolist()
    return {
        "photographs": len(np.unique(table["photo_ids"])),
        "faces": len(table["photos"]),
        "sources": len(np.unique(table["sources"])),
        "tags": dict(zip(TAG_NAMES, present, strict=True)),
        "cameras": dict(cameras.most_common()),
    }


def list_warnings(tables: dict[str, Columns]) -> list[str]:
    """Return warnings about what will make the training or its figures poor."""
    warnings: list[str] = []
    tagged: dict[str, NDArray[np.bool_]] = {
        role: np.any(~np.isnan(table["tags"]), axis=1) for role, table in tables.items()
    }
    if tables and not any(known.any() for known in tagged.values()):
        warnings.append(
            "no photograph has camera tags, so there is nothing to rank: check whether these are generated pictures, "
            "or whether their tags were removed"
        )
    else:
        for role, table in tables.items():
            warnings += [_describe_untagged(role, table["sources"], tagged[role])] if not tagged[role].all() else []
    if "train" in tables:
        warnings += list_ranking_warnings(tables["train"])
    return [warning for warning in warnings if warning]


def list_ranking_warnings(train: Columns) -> list[str]:
    """Return why the faces of the role train cannot be ranked well."""
    known = {camera for camera in train["cameras"].tolist() if camera}
    warnings = []
    if len(known) == 1:
        warnings.append(
            f"all tagged training faces are from one camera, {known.pop()}: the extractor may learn its settings only, "
            "and a tag that never changes is equal in every pair"
        )
    for name, column in zip(TAG_NAMES, train["tags"].T, strict=True):
        values = np.unique(column[~np.isnan(column)])
        if len(values) == 1:
            warnings.append(f"{name} is {values[0]:g} in every training photograph: its ranking pairs are all equal")
    return warnings


def _describe_untagged(role: str, sources: NDArray[np.str_], tagged: NDArray[np.bool_]) -> str:
    """Return a warning that names the sources of a role with many faces and no tag; empty if there is none."""
    names, index = np.unique(sources, return_inverse=True)
    faces, known = np.bincount(index), np.bincount(index, weights=tagged)
    untagged = names[(known == 0) & (faces >= MIN_UNTAGGED_FACES)].tolist()
    if not untagged:
        return ""
    more = f" and {len(untagged) - 3} more" if len(untagged) > 3 else ""  # noqa: PLR2004 - three examples
    return f"{role}: no camera tags in {', '.join(untagged[:3])}{more}: make sure that these are photographs"


def print_without_role(photographs: Mapping[str, int], console: Console) -> None:
    """Print how many photographs have no role, and their sources, the largest first."""
    if photographs:
        ordered = sorted(photographs.items(), key=lambda item: (-item[1], item[0]))
        named = ", ".join(f"{source!r} ({number})" for source, number in ordered[:MAX_NAMED])
        more = f" and {len(ordered) - MAX_NAMED} more" if len(ordered) > MAX_NAMED else ""
        console.print(f"left out: {sum(photographs.values())} photographs of sources without a role: {named}{more}")


def print_report(facts: dict[str, Any], console: Console) -> None:
    """Print the facts: roles, dropped faces by source, minimums and warnings."""
    roles = Table("role", "sources", "photographs", "faces", *TAG_NAMES, "cameras", box=SIMPLE_HEAD)
    for role, row in facts["roles"].items():
        cells = [row["sources"], row["photographs"], row["faces"], *row["tags"].values(), len(row["cameras"])]
        roles.add_row(role, *map(str, cells))
    console.print(roles)
    dropped = Table("source", "role", "faces used", "dropped", box=SIMPLE_HEAD)
    ordered = sorted(facts["sources"].items(), key=lambda item: -sum(item[1]["dropped"].values()))
    for name, row in ordered[:MAX_ROWS]:
        why = ", ".join(f"{count} {reason}" for reason, count in row["dropped"].items())
        dropped.add_row(name, row["role"] or "", str(row["faces"]), why)
    console.print(dropped)
    if len(ordered) > MAX_ROWS:
        console.print(f"and {len(ordered) - MAX_ROWS} more sources: see prepare.json")
    if facts["refused_tags"]:
        counts = ", ".join(f"{count} {name}" for name, count in facts["refused_tags"].items())
        console.print(f"implausible tags and damaged metadata: {counts}")
    print_without_role(facts["without_role"], console)
    for name, reason, count in facts["left_out_by_layout"]:
        console.print(f"{name}: left out {count} {reason}")
    console.print(
        f"{facts['photographs']} photographs, {facts['faces']} faces in use; this call took {facts['seconds']:.0f} s"
    )
    print_minimums(facts["minimums"], f"minimums of the recipe {facts['recipe']}, and what was found", console)
    for warning in facts["warnings"]:
        console.print(f"warning: {warning}", style="yellow")
