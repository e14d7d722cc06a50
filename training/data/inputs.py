"""All inputs of `prepare` as one sequence of photographs with roles, listed once before any face is cut."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingest.exif import ExifReading
from ingest.reasons import Unscorable
from scorer.commands.progress import Progress
from scorer.files import replace_file
from training.data.exif import read_file_exif
from training.data.photos import Photo, PhotoSource, Role
from training.data.roles import MAX_NAMED, Need, RoleRule

MAX_READINGS = 200  # photographs whose tags are read before the work: the first, second, fourth, eighth of a source
PHOTOS_PER_REPORT = 256


@dataclass(frozen=True, slots=True)
class Inputs:
    """The listed inputs.

    Attributes:
        sources: the inputs, read one after the other.
        roles: role by source; photographs of other sources are left out.
        photographs: number of photographs by source, of the sources with a role.
        digest: of the names and sources of these photographs, in order.
        readings: tags of some of these photographs by source; None if they are damaged or unreadable.
        without_role: number of photographs by source, of the sources without a role.
        skipped: number of entries that the inputs left out, by input and reason.
    """

    sources: Sequence[PhotoSource]
    roles: Mapping[str, Role] = field(default_factory=dict)
    photographs: Counter[str] = field(default_factory=Counter)
    digest: str = ""
    readings: Mapping[str, Sequence[ExifReading | None]] = field(default_factory=dict)
    without_role: Counter[str] = field(default_factory=Counter)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)

    def stream(self) -> Iterator[tuple[Photo, Role]]:
        """Yield the photographs that have a role, always in the same order."""
        for source in self.sources:
            for photo in source.list_photos():
                if role := self.roles.get(photo.source):
                    yield photo, role

    def count_roles(self) -> dict[str, dict[str, int]]:
        """Return the numbers of sources and photographs of each role."""
        counts: dict[str, dict[str, int]] = {}
        for source, number in self.photographs.items():
            of_role = counts.setdefault(self.roles[source], {"sources": 0, "photographs": 0})
            of_role["sources"] += 1
            of_role["photographs"] += number
        return counts


def list_inputs(
    sources: Sequence[PhotoSource],
    rule: RoleRule,
    needs: Mapping[Role, Need] | None = None,
    progress: Progress | None = None,
) -> Inputs:
    """List all photographs, assign the roles, and read the tags of some photographs.

    Args:
        sources: the inputs.
        rule: assigns the roles.
        needs: what the automatic split gives to each role.
        progress: counts the listed photographs.

    Raises:
        FileNotFoundError: there is no photograph with a role.
        ValueError: an input is damaged, a source has two roles, or an entry of the roles table names no source.
    """
    photographs, without_role = Counter[str](), Counter[str]()
    skipped = Counter[tuple[str, str]]()
    proposed: dict[str, Role] = {}
    readings: dict[str, list[ExifReading | None]] = {}
    left = MAX_READINGS
    digest = hashlib.sha256()
    listed = 0
    for source in sources:
        for photo in source.list_photos():
            if photo.role and proposed.setdefault(photo.source, photo.role) != photo.role:
                message = (
                    f"source {photo.source!r} would have two roles, {proposed[photo.source]} and {photo.role}: "
                    "give it one role in the roles table"
                )
                raise ValueError(message)
            listed += 1
            if progress and listed % PHOTOS_PER_REPORT == 0:
                progress.advance(PHOTOS_PER_REPORT)
            if not rule.covers(photo.source, photo.role):
                without_role[photo.source] += 1
                continue
            photographs[photo.source] += 1
            digest.update(json.dumps([photo.name, photo.source]).encode())
            if left and photographs[photo.source].bit_count() == 1:  # a power of two
                readings.setdefault(photo.source, []).append(read_tags(photo))
                left -= 1
        for reason, count in source.dropped.items():
            skipped[source.describe(), reason] += count
    roles = rule.assign(photographs + without_role, proposed, needs or {})
    if not photographs:
        message = "no photograph with a role was found: check the folders and the roles table"
        raise FileNotFoundError(message)
    return Inputs(sources, roles, photographs, digest.hexdigest(), readings, without_role, skipped)


def read_tags(photo: Photo) -> ExifReading | None:
    """Return the tags of a photograph, None if they or the photograph cannot be read."""
    try:
        return photo.read_exif() if photo.read_exif else read_file_exif(photo.read())
    except (Unscorable, OSError):
        return None


def check_inputs(path: Path, inputs: Inputs) -> None:
    """Write which photographs a run has, or compare them with those of an earlier process.

    Raises:
        ValueError: the photographs or their roles differ.
    """
    now = {source: (inputs.roles[source], number) for source, number in inputs.photographs.items()}
    content = json.loads(json.dumps({"digest": inputs.digest, "sources": now}))
    if not path.exists():
        replace_file(path, (json.dumps(content) + "\n").encode())
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != content:
        changes = describe_changes(before["sources"], content["sources"])
        message = (
            f"{path.parents[2]} was prepared from other photographs ({changes}): "
            "use another run folder, or delete its `faces`"
        )
        raise ValueError(message)


def describe_changes(before: Mapping[str, Sequence[object]], now: Mapping[str, Sequence[object]]) -> str:
    """Return in words how two mappings of sources to role and number of photographs differ."""
    changes = []
    for source in sorted(before.keys() | now.keys()):
        old, new = before.get(source), now.get(source)
        if old is None:
            changes.append(f"source {source!r} is new")
        elif new is None:
            changes.append(f"source {source!r} is missing")
        elif old[0] != new[0]:
            changes.append(f"source {source!r} had the role {old[0]} and has the role {new[0]} now")
        elif old[1] != new[1]:
            changes.append(f"source {source!r} had {old[1]} photographs and has {new[1]} now")
    more = [f"{len(changes) - MAX_NAMED} more"] if len(changes) > MAX_NAMED else []
    return "; ".join(changes[:MAX_NAMED] + more) or "their names or their order differ"
