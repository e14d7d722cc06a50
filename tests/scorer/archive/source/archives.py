"""Small archives for tests, and the images of their plans."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scorer.archive.items import Item
from scorer.archive.source.access import read_image_bytes
from scorer.archive.source.layout import PlanFacts
from scorer.archive.source.plan import StoredPlan, open_plan, write_plan
from scorer.archive.source.sources import Archive
from scorer.settings import PayloadSettings

NOTHING = PayloadSettings()
LIMIT = 1000


def make_tar(members: Iterable[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of regular files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, with their subfolders."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def plan(folder: Path, *sources: object, shard_images: int = 4, **columns: Any) -> tuple[StoredPlan, PlanFacts]:  # noqa: ANN401
    """Plan a scan of `sources` in `folder`."""
    payloads = columns.pop("payloads", NOTHING)
    facts = write_plan(folder, Archive(tuple(map(str, sources)), **columns), payloads, shard_images)
    return open_plan(folder, LIMIT), facts


def list_items(stored: StoredPlan) -> list[Item]:
    """Return all images, in order."""
    return [item for index in range(stored.shard_count) for item in stored.read_items(stored.read_shard(index))]


def read_all(stored: StoredPlan, payloads: PayloadSettings = NOTHING) -> dict[str, bytes]:
    """Return the bytes of all images by their content_id."""
    access = stored.grant_access(payloads)
    items = list_items(stored)
    read = {item.content_id: read_image_bytes(item, access) for item in items}
    assert len(read) == len(items)
    return read
