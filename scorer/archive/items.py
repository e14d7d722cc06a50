"""What a scan goes through: shards of an archive, and the images in them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from scorer.messages import RequestedFace


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Where a member's bytes lie in its tar: byte `offset` and `size`, so that one image can be read again alone."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """One image of an archive.

    Attributes:
        content_id: names the image in results and is unique in the archive: its URI, `<tar>/<member>` for a member,
            `<manifest>#<row>` for bytes in a row. The part after a tar's name is opaque: never a path to write to.
        source: what the report groups by: the first folder below the prefix, or the tar or manifest.
        uri: where the bytes are; for a member or a row, the file that holds it.
        data: the bytes, where reading the shard brought them along.
        span: the member's place in the tar.
        faces: boxes that the manifest gives; None means "find them".
        oversized: why a row's bytes, which are too many, were not read; empty for all others.
        problem: why it cannot be read, known since it was listed; empty for an image.
    """

    content_id: str
    source: str
    uri: str
    data: bytes | None = None
    span: ByteSpan | None = None
    faces: tuple[RequestedFace, ...] | None = None
    problem: str = ""
    oversized: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of an archive that is scored, written and committed as one.

    Attributes:
        index: from 0, without gaps; names its files.
        kind: "list" where the plan lists the images, "tar" where a tar is streamed, "rows" where row groups of
            a Parquet manifest hold the bytes.
        uri: of the tar or manifest; empty for a list.
        row_group: the first of the manifest, or the one of the plan's list of images; 0 for a tar.
        images: how many there are; None where only reading tells (a tar).
    """

    index: int
    kind: Literal["list", "tar", "rows"]
    uri: str
    row_group: int
    images: int | None


class ScanPlan(Protocol):
    """What is to be scanned, in an order that every process of a run sees alike. It lies on disk, not in memory."""

    @property
    def shard_count(self) -> int:
        """How many shards there are."""

    def read_shard(self, index: int) -> Shard:
        """Return what is known of a shard before it is read."""

    def read_items(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Item]:
        """Yield the images of a shard, in order; a tar's or a manifest's bytes come along, streamed.

        Args:
            shard: which one.
            left_out: takes the counts of what the tar or manifest holds besides, by `LeftOut`.

        Raises:
            PayloadUnavailable: the tar or manifest cannot be read now.
            SourceChanged: it is not what it was when the run was planned.
            SourceDamaged: it is no plain tar, no Parquet, or cut short; raised after the images before the damage.
        """
