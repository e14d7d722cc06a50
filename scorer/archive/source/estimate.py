"""How much there is to scan, without scanning it: `--dry-run`."""

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from scorer.archive.items import SourceDamaged
from scorer.archive.source.containers import Container
from scorer.archive.source.layout import PlanFacts, Tally, cut_shards, grant_access
from scorer.archive.source.sources import Archive, find_sources
from scorer.archive.source.stores import StoreFile
from scorer.archive.source.tars import walk_members
from scorer.payloads.settings import PayloadSettings

SAMPLED_TARS = 3
SAMPLED_MEMBERS = 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would go through.

    Attributes:
        facts: what planning tells.
        tar_images: about how many images are in tars that nobody counted, judged by the first members of the first
            tars; None where those hold no image.
    """

    facts: PlanFacts
    tar_images: int | None


def estimate_archive(archive: Archive, payloads: PayloadSettings, shard_images: int) -> Estimate:
    """Cut an archive into shards without writing anything.

    Raises:
        UsageError: a source names nothing, or a manifest's columns are not what they should be.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadUnavailable: a store fails.
    """
    sources = find_sources(archive)
    tally = Tally()
    tars: list[Container] = []
    for shard in cut_shards(sources, archive, grant_access(sources, payloads, max_bytes=0), shard_images, tally):
        if isinstance(shard, Container) and shard.kind == "tar" and shard.images is None and len(tars) < SAMPLED_TARS:
            tars.append(shard)
    facts = tally.facts()
    return Estimate(facts, _estimate_images(tars, facts.uncounted_bytes) if facts.uncounted else 0)


def _estimate_images(tars: list[Container], size: int) -> int | None:
    images = length = 0
    for tar in tars:
        ends: list[int] = []
        with StoreFile(tar.uri) as file, suppress(SourceDamaged):  # the scan will say so
            ends.extend(span.offset + span.size for _, span in islice(walk_members(file, tar.uri), SAMPLED_MEMBERS))
        images += len(ends)
        length += ends[-1] if len(ends) == SAMPLED_MEMBERS else tar.size
    return round(size * images / length) if images else None
