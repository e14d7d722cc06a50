"""The input of a scan: shards of an archive, and the images in them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from scorer.messages import RequestedFace


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Where a member's bytes are in its tar, so that one image can be read again: `offset` and `size` in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """One image of an archive.

    Attributes:
        content_id: names the image in results and is unique in the archive: its URI, `<tar>/<member>` for a member,
            `<manifest>#<row>` for bytes in a row. The part after a tar's name is opaque: never a path to write to.
        source: the report's group: the first folder below the prefix, or the tar or manifest.
        uri: of the image; for a member or a row, of the file that contains it.
        data: the bytes, where reading the shard also read them.
        span: the member's bytes in the tar.
        faces: boxes from the manifest; None means that the detector finds the faces.
        oversized: why a row's bytes were too many to be read; empty for all others.
        problem: why the image cannot be read, where the listing already showed it; otherwise empty.
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
    """A part of an archive that is scored, written and committed together.

    Attributes:
        index: from 0, without gaps; names its files.
        kind: "list" where the plan lists the images, "tar" where a tar is streamed, "rows" where row groups of
            a Parquet manifest contain the bytes.
        uri: of the tar or manifest; empty for a list.
        row_group: the manifest's first row group, or that of the plan's list of images; 0 for a tar.
        images: how many there are; None where only reading counts them (a tar).
    """

    index: int
    kind: Literal["list", "tar", "rows"]
    uri: str
    row_group: int
    images: int | None


class ScanPlan(Protocol):
    """The shards and images of a scan, in the same order for every process of a run. It is on disk, not in memory."""

    def read_shard(self, index: int) -> Shard:
        """Return a shard's description; its images are not read."""

    def read_items(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Item]:
        """Yield the images of a shard, in order; images of a tar or manifest carry their bytes, as a stream.

        Args:
            shard: whose images.
            left_out: is increased by the counts of everything else in the tar or manifest, by `LeftOut`.

        Raises:
            PayloadUnavailable: the tar or manifest cannot be read now.
            SourceChanged: it has changed since the run was planned.
            SourceDamaged: it is not a plain tar, not Parquet, or truncated; raised after the images before the damage.
        """
