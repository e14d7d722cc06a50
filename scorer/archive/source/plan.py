"""The plan of a run: its shards and their images, on disk and in the same order for every process.

`plan.json` is written last; a plan without it is not complete.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from scorer.archive.folder import publish, utf8_path
from scorer.archive.items import Item, Shard
from scorer.archive.source.access import Access
from scorer.archive.source.containers import Container, read_container
from scorer.archive.source.layout import PlanCounts, PlanFacts, grant_access, split_archive
from scorer.archive.source.sources import Archive, find_sources
from scorer.errors import UsageError
from scorer.face_boxes import read_faces, write_faces
from scorer.payloads.stores import Version
from scorer.settings import PayloadSettings

PLAN_VERSION = 1
PLAN, SHARDS, ITEMS = "plan.json", "shards.parquet", "items.parquet"
_WORD = pa.dictionary(pa.int32(), pa.string())
_SHARDS = pa.schema(
    [
        ("kind", _WORD),
        ("uri", pa.string()),
        ("row_group", pa.int32()),
        ("row_groups", pa.int32()),
        ("rows", pa.int64()),
        ("first_row", pa.int64()),
        ("images", pa.int64()),
        ("size", pa.int64()),
        ("file_size", pa.int64()),
        ("file_state", pa.string()),
        ("data_column", _WORD),
        ("faces_column", _WORD),
    ]
)
_ITEMS = pa.schema(
    [
        ("content_id", pa.string()),
        ("source", _WORD),
        ("uri", pa.string()),
        ("faces", pa.string()),
        ("problem", pa.string()),
    ]
)


def write_plan(folder: Path, archive: Archive, payloads: PayloadSettings, shard_images: int) -> PlanFacts:
    """Write the plan of an archive into `folder`, and replace an earlier plan; memory holds one shard's images.

    Args:
        folder: usually `RUN/_plan`.
        archive: the sources.
        payloads: what may be read besides the sources.
        shard_images: images in a shard.

    Raises:
        UsageError: a source names nothing, or a manifest's columns are not valid.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadUnavailable: a store fails.
        OSError: the disk is full.
    """
    sources = find_sources(archive)
    access = grant_access(sources, payloads, max_bytes=0)
    counts = PlanCounts()
    rows: list[dict[str, Any]] = []  # a few hundred bytes a shard

    def write_items(file: IO[bytes]) -> None:
        lists = 0
        with pq.ParquetWriter(file, _ITEMS, compression="zstd", write_statistics=False) as writer:
            for shard in split_archive(sources, archive, access, shard_images, counts):
                if isinstance(shard, Container):
                    rows.append(_row_of(shard))
                else:
                    writer.write_table(_items_table(shard), row_group_size=len(shard))
                    rows.append({"kind": "list", "uri": "", "row_group": lists, "images": len(shard), "size": 0})
                    lists += 1

    (folder / PLAN).unlink(missing_ok=True)
    publish(folder / ITEMS, write_items, _verify)
    table = pa.Table.from_pylist(rows, _SHARDS)
    publish(folder / SHARDS, lambda file: pq.write_table(table, file), _verify)
    facts = counts.facts()
    _publish_head(folder, {"version": PLAN_VERSION, "named": access.named, "facts": asdict(facts)})
    return facts


def _verify(path: Path) -> None:
    pq.read_metadata(utf8_path(path))


def _row_of(container: Container) -> dict[str, Any]:
    row = asdict(container)
    version = row.pop("version")
    return row | {"file_size": version["size"], "file_state": version["state"]}


def _items_table(items: list[Item]) -> pa.Table:
    rows = [(item.content_id, item.source, item.uri, write_faces(item.faces), item.problem) for item in items]
    return pa.Table.from_pylist([dict(zip(_ITEMS.names, row, strict=True)) for row in rows], _ITEMS)


def erase_items(folder: Path, content_ids: Collection[str]) -> frozenset[str]:
    """Empty the entries of images in the plan, which keep their positions; return those that were found.

    Raises:
        OSError: the folder cannot be written; the plan is unchanged.
    """
    path, found = folder / ITEMS, set[str]()
    if not path.exists():  # a copy of a run's folder may lack the plan
        return frozenset()

    def write_items(file: IO[bytes]) -> None:
        with pq.ParquetFile(utf8_path(path)) as old:
            schema = old.schema_arrow
            with pq.ParquetWriter(file, schema, compression="zstd", write_statistics=False) as writer:
                for number in range(old.num_row_groups):
                    rows = old.read_row_group(number, use_threads=False).to_pylist()
                    for row in (row for row in rows if row["content_id"] in content_ids):
                        found.add(row["content_id"])
                        row.update(content_id="", uri="", faces=None, problem="erased")
                    writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=max(1, len(rows)))

    publish(path, write_items, _verify)
    head = json.loads((folder / PLAN).read_bytes())
    if erased := {name for name in head["named"] if name in content_ids}:
        found |= erased
        head["named"] = [name for name in head["named"] if name not in erased]
        _publish_head(folder, head)
    return frozenset(found)


def _publish_head(folder: Path, head: dict[str, Any]) -> None:
    text = json.dumps(head, indent=1)
    publish(folder / PLAN, lambda file: file.write(text.encode()), lambda path: json.loads(path.read_bytes()))


def find_facts(folder: Path) -> PlanFacts | None:
    """Return the counts of the plan in `folder`, or None if it contains no plan of this release."""
    try:
        return PlanFacts(**json.loads((folder / PLAN).read_bytes())["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_plan(folder: Path, max_bytes: int) -> "StoredPlan":
    """Open a plan that `write_plan` wrote.

    Args:
        folder: of the plan.
        max_bytes: of one image; a tar's larger members are not read, and `read_image_bytes` refuses them.

    Raises:
        UsageError: there is no complete plan, or it has another version.
    """
    try:
        head = json.loads((folder / PLAN).read_bytes())
        version = head["version"]
        if version == PLAN_VERSION:
            shards = pq.read_table(utf8_path(folder / SHARDS), schema=_SHARDS)
            return StoredPlan(folder, shards, PlanFacts(**head["facts"]), tuple(head["named"]), max_bytes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{folder} contains no complete plan: {error}; start a new run"
        raise UsageError(message) from error
    message = f"{folder} contains a plan of version {version}, this release reads {PLAN_VERSION}; start a new run"
    raise UsageError(message)


class StoredPlan:
    """A plan on disk: memory holds the table of shards, and the images of the shards that are being read.

    Attributes:
        facts: the counts of the plan.
    """

    def __init__(
        self, folder: Path, shards: pa.Table, facts: PlanFacts, named: tuple[str, ...], max_bytes: int
    ) -> None:
        self.facts = facts
        self._folder, self._shards, self._named, self._max_bytes = folder, shards, named, max_bytes

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return cast("int", self._shards.num_rows)

    def grant_access(self, payloads: PayloadSettings) -> Access:
        """Return what the run may read: what its sources name, and what `payloads` lists."""
        return Access(self._named, payloads, self._max_bytes)

    def read_shard(self, index: int) -> Shard:
        """Return a shard's description; its images are not read.

        Raises:
            IndexError: there is no such shard.
        """
        row = self._row(index)
        return Shard(index, row["kind"], row["uri"], row["row_group"], row["images"])

    def read_items(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Item]:
        """Yield the images of a shard, as `ScanPlan.read_items`."""
        if shard.kind == "list":
            yield from self._read_list(shard.row_group)
        else:
            row = self._row(shard.index)
            version = Version(row.pop("file_size"), row.pop("file_state"))
            container = Container(version=version, **row)
            yield from read_container(container, self._max_bytes, Counter() if left_out is None else left_out)

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.shard_count:
            message = f"the plan has {self.shard_count} shards, and none with the index {index}"
            raise IndexError(message)
        row: dict[str, Any] = self._shards.slice(index, 1).to_pylist()[0]
        return row

    def _read_list(self, row_group: int) -> Iterator[Item]:
        with pq.ParquetFile(utf8_path(self._folder / ITEMS)) as file:
            rows = file.read_row_group(row_group, use_threads=False).to_pylist()
        for row in rows:
            faces = read_faces(row["faces"], row["content_id"])
            # Plans of older releases have no column `problem`.
            yield Item(row["content_id"], row["source"], row["uri"], faces=faces, problem=row.get("problem") or "")
