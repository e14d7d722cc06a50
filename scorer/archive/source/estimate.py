"""How much there is to scan, without scanning it, and a sample of it: `--dry-run`."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Generic, TypeVar

from scorer.archive.items import Item
from scorer.archive.source.access import Access
from scorer.archive.source.containers import Container, read_container
from scorer.archive.source.layout import PlanCounts, PlanFacts, cut_shards, grant_access
from scorer.archive.source.sources import Archive, find_sources
from scorer.archive.source.tars import walk_members
from scorer.errors import SourceDamaged
from scorer.payloads.stores import StoreFile
from scorer.settings import PayloadSettings

SAMPLED_IMAGES = 64
SAMPLED_CONTAINERS = 4
SAMPLED_MEMBERS = 200
T = TypeVar("T")


@dataclass(slots=True)
class ReadSample(Generic[T]):
    """Up to `size` of however many are added, each as likely as any other, and the same every time (reservoir)."""

    size: int
    chosen: list[T] = field(default_factory=list)
    added: int = 0
    _rng: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - no secret

    def add(self, value: T) -> None:
        """Add one."""
        self.added += 1
        if len(self.chosen) < self.size:
            self.chosen.append(value)
        elif (place := self._rng.randrange(self.added)) < self.size:
            self.chosen[place] = value


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would go through.

    Attributes:
        facts: what planning tells.
        tar_images: about how many images are in tars that nobody counted, judged by the first members of a few of them;
            None where those hold no image.
        access: what the run may read.
        listed: a sample of the images in lists.
        containers: a sample of the tars and manifests with bytes.
    """

    facts: PlanFacts
    tar_images: int | None
    access: Access
    listed: ReadSample[Item]
    containers: ReadSample[Container]

    @property
    def images(self) -> int | None:
        """About how many there are in all; None where nobody can tell."""
        return None if self.tar_images is None else self.facts.images + self.tar_images

    def read_sample(self) -> Iterator[Item]:
        """Yield up to `SAMPLED_IMAGES` images, from lists and from containers as there are in the archive.

        Raises:
            SourceChanged: a tar or manifest is gone by now.
            PayloadUnavailable: a store fails.
        """
        share = self.listed.added / self.images if self.images else 0.0 if self.containers.chosen else 1.0
        listed = islice(self.listed.chosen, round(SAMPLED_IMAGES * share))
        yield from listed
        each = round(SAMPLED_IMAGES * (1 - share) / max(1, len(self.containers.chosen)))
        for container in self.containers.chosen:
            with suppress(SourceDamaged):  # the scan will say so
                yield from islice(read_container(container, self.access.max_bytes, Counter()), each)


def estimate_archive(archive: Archive, payloads: PayloadSettings, shard_images: int, max_bytes: int) -> Estimate:
    """Cut an archive into shards without writing anything.

    Raises:
        UsageError: a source names nothing, or a manifest's columns are not what they should be.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadUnavailable: a store fails.
    """
    sources = find_sources(archive)
    access = grant_access(sources, payloads, max_bytes)
    tally = PlanCounts()
    listed, containers = ReadSample[Item](SAMPLED_IMAGES), ReadSample[Container](SAMPLED_CONTAINERS)
    tars = ReadSample[Container](SAMPLED_CONTAINERS)
    for shard in cut_shards(sources, archive, access, shard_images, tally):
        if isinstance(shard, list):
            for item in shard:
                listed.add(item)
            continue
        containers.add(shard)
        if shard.kind == "tar" and shard.images is None:
            tars.add(shard)
    facts = tally.facts()
    tar_images = _estimate_images(tars.chosen, facts.uncounted_bytes) if facts.uncounted else 0
    return Estimate(facts, tar_images, access, listed, containers)


def _estimate_images(tars: list[Container], size: int) -> int | None:
    images = length = 0
    for tar in tars:
        ends: list[int] = []
        with StoreFile(tar.uri) as file, suppress(SourceDamaged):  # the scan will say so
            members = islice(walk_members(file, tar.uri), SAMPLED_MEMBERS)
            ends.extend(span.offset + span.size for _, span in members if span)
        images += len(ends)
        length += ends[-1] if len(ends) == SAMPLED_MEMBERS else tar.size
    return round(size * images / length) if images else None
