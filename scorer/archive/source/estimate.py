"""The size of an archive without a scan, and a sample of its images: `--dry-run`."""

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
from scorer.archive.source.layout import PlanCounts, PlanFacts, grant_access, split_archive
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
class ReservoirSample(Generic[T]):
    """A random sample of at most `size` of the added values, each equally likely; reproducible (reservoir sampling)."""

    size: int
    chosen: list[T] = field(default_factory=list)
    added: int = 0
    _rng: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - no secret

    def add(self, value: T) -> None:
        """Add one value."""
        self.added += 1
        if len(self.chosen) < self.size:
            self.chosen.append(value)
        elif (index := self._rng.randrange(self.added)) < self.size:
            self.chosen[index] = value


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would read.

    Attributes:
        facts: the counts of the plan.
        tar_images: about how many images are in tars without a count, estimated from the first members of a few of
            them; None where these contain no image.
        access: what the run may read.
        listed: a sample of the images in lists.
        containers: a sample of the tars and manifests with bytes.
    """

    facts: PlanFacts
    tar_images: int | None
    access: Access
    listed: ReservoirSample[Item]
    containers: ReservoirSample[Container]

    @property
    def images(self) -> int | None:
        """About how many images there are; None if unknown."""
        return None if self.tar_images is None else self.facts.images + self.tar_images

    def read_sample(self) -> Iterator[Item]:
        """Yield up to `SAMPLED_IMAGES` images, from lists and from containers in the archive's proportion.

        Raises:
            SourceChanged: a tar or manifest no longer exists.
            PayloadUnavailable: a store fails.
        """
        share = self.listed.added / self.images if self.images else 0.0 if self.containers.chosen else 1.0
        listed = islice(self.listed.chosen, round(SAMPLED_IMAGES * share))
        yield from listed
        each = round(SAMPLED_IMAGES * (1 - share) / max(1, len(self.containers.chosen)))
        for container in self.containers.chosen:
            with suppress(SourceDamaged):  # the scan reports it
                yield from islice(read_container(container, self.access.max_bytes, Counter()), each)


def estimate_archive(archive: Archive, payloads: PayloadSettings, shard_images: int, max_bytes: int) -> Estimate:
    """Split an archive into shards without writing anything.

    Raises:
        UsageError: a source names nothing, or a manifest's columns are not valid.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadUnavailable: a store fails.
    """
    sources = find_sources(archive)
    access = grant_access(sources, payloads, max_bytes)
    counts = PlanCounts()
    listed, containers = ReservoirSample[Item](SAMPLED_IMAGES), ReservoirSample[Container](SAMPLED_CONTAINERS)
    tars = ReservoirSample[Container](SAMPLED_CONTAINERS)
    for shard in split_archive(sources, archive, access, shard_images, counts):
        if isinstance(shard, list):
            for item in shard:
                listed.add(item)
            continue
        containers.add(shard)
        if shard.kind == "tar" and shard.images is None:
            tars.add(shard)
    facts = counts.facts()
    tar_images = _estimate_images(tars.chosen, facts.uncounted_bytes) if facts.uncounted else 0
    return Estimate(facts, tar_images, access, listed, containers)


def _estimate_images(tars: list[Container], size: int) -> int | None:
    images = length = 0
    for tar in tars:
        ends: list[int] = []
        with StoreFile(tar.uri) as file, suppress(SourceDamaged):  # the scan reports it
            members = islice(walk_members(file, tar.uri), SAMPLED_MEMBERS)
            ends.extend(span.offset + span.size for _, span in members if span)
        images += len(ends)
        length += ends[-1] if len(ends) == SAMPLED_MEMBERS else tar.size
    return round(size * images / length) if images else None
