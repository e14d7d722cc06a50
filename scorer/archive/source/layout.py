"""How an archive is cut into shards, and what is counted meanwhile."""

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
from scorer.archive.source.duplicates import Seen
from scorer.archive.source.listing import Listed, list_pieces
from scorer.archive.source.manifests import is_manifest
from scorer.archive.source.sources import Archive, Source
from scorer.errors import UsageError
from scorer.face_boxes import write_faces
from scorer.payloads.names import escape_name
from scorer.settings import PayloadSettings

_WHAT = f"image ({', '.join(sorted(IMAGE_SUFFIXES))})"


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What planning tells of an archive.

    Attributes:
        shards: how many.
        images: that are listed or counted; those in tars come on top.
        image_bytes: of the images whose size is known.
        unsized_images: those whose size is not.
        uncounted: tars (and Parquet row groups) whose images only reading counts.
        uncounted_bytes: their size.
        duplicates: images and containers that were named again; the first one counts.
        imageless_rows: of manifests, with no URI or no bytes (null).
        digest: SHA-256 of all that is planned, in order.
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
        """What planning leaves out, by `LeftOut`; what tars hold besides images, only reading them tells."""
        others = {LeftOut.DUPLICATE: self.duplicates, LeftOut.IMAGELESS_ROW: self.imageless_rows}
        return Counter({str(kind): count for kind, count in (self.ignored | others).items() if count})


@dataclass(slots=True)
class PlanCounts:
    """Counts while an archive is cut; `facts` when that is done."""

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

    def count_image(self, image: Listed) -> None:
        """Count an image that is listed."""
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

    def _add(self, value: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        self._digest.update(json.dumps(value).encode() + b"\n")


def grant_access(sources: list[Source], payloads: PayloadSettings, max_bytes: int) -> Access:
    """Return what may be read because sources name it, or because `payloads` lists it."""
    named = dict.fromkeys(source.named for source in sources if source.named is not None)
    return Access(tuple(named), payloads, max_bytes)


def cut_shards(
    sources: list[Source], archive: Archive, access: Access, shard_images: int, tally: PlanCounts
) -> Iterator[list[Item] | Container]:
    """Yield shards in order: lists of `shard_images` images (the last one of fewer), and containers as they come.

    Memory holds one shard. What comes again by its name is dropped and counted.

    Raises:
        UsageError: nothing is left to scan, or as `list_pieces`.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadUnavailable: a store fails.
        OSError: the disk for temporary files is full.
    """
    pending: list[Item] = []
    with Seen() as seen:
        for argument, found in groupby(sources, lambda source: source.argument):
            # A folder alone cannot name a file twice.
            unique = len(sources) == 1 and sources[0].kind == "folder"
            empty = True
            before = tally.left_out.copy()
            for piece in chain.from_iterable(list_pieces(each, archive, access, shard_images) for each in found):
                if isinstance(piece, LeftOut):
                    tally.left_out[piece] += 1
                    continue
                empty = empty and isinstance(piece, Container) and piece.images == 0
                if not unique and not seen.add(_name(piece)):
                    tally.left_out[LeftOut.DUPLICATE] += 1
                elif isinstance(piece, Container):
                    tally.count_container(piece)
                    yield piece
                else:
                    tally.count_image(piece)
                    pending.append(piece.item)
                if len(pending) == shard_images:
                    tally.count_list(pending)
                    yield pending
                    pending = []
            if empty:
                raise UsageError(_explain_empty(argument, tally.left_out - before))
    if pending:
        tally.count_list(pending)
        yield pending


def _explain_empty(argument: str, left_out: Counter[str]) -> str:
    found = describe_left_out(left_out)
    why = f" ({found})" if found else ""
    if is_manifest(argument):
        rows = "every row lacks its image" if left_out[LeftOut.IMAGELESS_ROW] else "it has no row"
        return f"{escape_name(argument)} names no image: {rows}{why}"
    return f"{escape_name(argument)} holds no {_WHAT}{why}; tars and manifests in a folder are named themselves (*.tar)"


def _name(piece: Listed | Container) -> str:
    return piece.item.content_id if isinstance(piece, Listed) else f"{piece.kind} {piece.row_group} {piece.uri}"
