"""How an archive is split into shards, and the counts of the plan."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, groupby
from typing import Any

from scorer.archive.items import Item
from scorer.archive.left_out import IMAGE_SUFFIXES, LeftOut, describe_left_out
from scorer.archive.source.access import Access
from scorer.archive.source.containers import Container
from scorer.archive.source.duplicates import SeenNames
from scorer.archive.source.listing import ListedImage, list_source
from scorer.archive.source.manifests import is_manifest
from scorer.archive.source.sources import Archive, Source
from scorer.errors import UsageError
from scorer.face_boxes import write_faces
from scorer.payloads.names import escape_name
from scorer.settings import PayloadSettings

_IMAGE = f"image ({', '.join(sorted(IMAGE_SUFFIXES))})"


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """The counts of a plan.

    Attributes:
        shards: how many.
        images: that are listed or counted; images in tars are not included.
        image_bytes: of the images whose size is known.
        unsized_images: images whose size is unknown.
        uncounted: tars (and Parquet row groups) whose images only reading counts.
        uncounted_bytes: their size.
        duplicates: images and containers that were named more than once; the first one is scanned.
        imageless_rows: manifest rows without a URI or without bytes (null).
        digest: SHA-256 of everything in the plan, in order.
        ignored: files that are left out by their names, and links to folders, by `LeftOut`.
    """

    shards: int
    images: int
    image_bytes: int
    unsized_images: int
    uncounted: int
    uncounted_bytes: int
    duplicates: int
    imageless_rows: int
    digest: str
    ignored: dict[str, int] = field(default_factory=dict)  # absent in the plans of older releases

    @property
    def left_out(self) -> Counter[str]:
        """What the plan leaves out, by `LeftOut`; other files in tars are counted when the tars are read."""
        others = {LeftOut.DUPLICATE: self.duplicates, LeftOut.IMAGELESS_ROW: self.imageless_rows}
        return Counter({str(kind): count for kind, count in (self.ignored | others).items() if count})


@dataclass(slots=True)
class PlanCounts:
    """The counts while an archive is split into shards; `facts` returns the result."""

    shards: int = 0
    images: int = 0
    image_bytes: int = 0
    unsized_images: int = 0
    uncounted: int = 0
    uncounted_bytes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    _digest: Any = field(default_factory=hashlib.sha256)

    def facts(self) -> PlanFacts:
        """Return the counts so far."""
        counted = (LeftOut.DUPLICATE, LeftOut.IMAGELESS_ROW)
        return PlanFacts(
            self.shards,
            self.images,
            self.image_bytes,
            self.unsized_images,
            self.uncounted,
            self.uncounted_bytes,
            self.left_out[LeftOut.DUPLICATE],
            self.left_out[LeftOut.IMAGELESS_ROW],
            self._digest.hexdigest(),
            {kind: count for kind, count in sorted(self.left_out.items()) if kind not in counted},
        )

    def count_image(self, image: ListedImage) -> None:
        """Count a listed image."""
        self.images += 1
        self.image_bytes += image.size or 0
        self.unsized_images += image.size is None

    def count_container(self, container: Container) -> None:
        """Count a container as a shard."""
        self.shards += 1
        self._add(asdict(container))
        if container.images is None:
            self.uncounted += 1
            self.uncounted_bytes += container.size
        else:
            self.images += container.images
            if container.kind == "rows":
                self.left_out[LeftOut.IMAGELESS_ROW] += container.rows - container.images
            self.image_bytes += container.size

    def count_list(self, items: list[Item]) -> None:
        """Count a list as a shard; its images were counted one by one."""
        self.shards += 1
        self._add([[item.content_id, item.source, item.uri, write_faces(item.faces), item.problem] for item in items])

    def _add(self, value: Any) -> None:  # noqa: ANN401 - any JSON value
        self._digest.update(json.dumps(value).encode() + b"\n")


def grant_access(sources: list[Source], payloads: PayloadSettings, max_bytes: int) -> Access:
    """Return what may be read: what the sources name, and what `payloads` lists."""
    named = dict.fromkeys(source.named for source in sources if source.named is not None)
    return Access(tuple(named), payloads, max_bytes)


def split_archive(
    sources: list[Source], archive: Archive, access: Access, shard_images: int, counts: PlanCounts
) -> Iterator[list[Item] | Container]:
    """Yield shards in order: lists of `shard_images` images (the last one may have fewer), and containers.

    Memory holds one shard. An image or container whose name was yielded before is dropped and counted.

    Raises:
        UsageError: there is nothing to scan, or as `list_source`.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadUnavailable: a store fails.
        OSError: the disk for temporary files is full.
    """
    pending: list[Item] = []
    with SeenNames() as seen:
        for argument, found in groupby(sources, lambda source: source.argument):
            # A single folder cannot name a file twice.
            unique = len(sources) == 1 and sources[0].kind == "folder"
            empty = True
            before = counts.left_out.copy()
            for entry in chain.from_iterable(list_source(each, archive, access, shard_images) for each in found):
                if isinstance(entry, LeftOut):
                    counts.left_out[entry] += 1
                    continue
                empty = empty and isinstance(entry, Container) and entry.images == 0
                if not unique and not seen.add(_name_entry(entry)):
                    counts.left_out[LeftOut.DUPLICATE] += 1
                elif isinstance(entry, Container):
                    counts.count_container(entry)
                    yield entry
                else:
                    counts.count_image(entry)
                    pending.append(entry.item)
                if len(pending) == shard_images:
                    counts.count_list(pending)
                    yield pending
                    pending = []
            if empty:
                raise UsageError(_explain_empty(argument, counts.left_out - before))
    if pending:
        counts.count_list(pending)
        yield pending


def _explain_empty(argument: str, left_out: Counter[str]) -> str:
    found = describe_left_out(left_out)
    why = f" ({found})" if found else ""
    if is_manifest(argument):
        rows = "no row has an image" if left_out[LeftOut.IMAGELESS_ROW] else "it has no row"
        return f"{escape_name(argument)} names no image: {rows}{why}"
    return f"{escape_name(argument)} contains no {_IMAGE}{why}; name tars and manifests in a folder as SOURCEs (*.tar)"


def _name_entry(entry: ListedImage | Container) -> str:
    return entry.item.content_id if isinstance(entry, ListedImage) else f"{entry.kind} {entry.row_group} {entry.uri}"
