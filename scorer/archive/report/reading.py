"""Reads the image of a face again for a gallery, with the read permissions of the run's plan."""

from pathlib import Path

from ingest.reasons import Unscorable
from scorer.archive.items import ByteSpan, Item
from scorer.archive.report.figures import Face
from scorer.archive.source.access import read_image_bytes
from scorer.archive.source.plan import StoredPlan, open_plan
from scorer.errors import PayloadUnavailable, SourceChanged, SourceDamaged, UsageError
from scorer.payloads.stores import LOCAL, open_store
from scorer.settings import Settings

_OUTAGES = 3
_FAILURES = (Unscorable, SourceChanged, SourceDamaged, UsageError, OSError, LookupError, ValueError)


class ArchiveReader:
    """Reads images of a run again: files, members of tars and Parquet rows, local and in object stores.

    After three failures of a store nothing more is read, so that an outage does not delay the report.

    Args:
        folder: the run's folder.
        settings: what may be read besides the run's sources, the time limit, and an image's largest size.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        try:
            self._plan: StoredPlan | None = open_plan(folder / "_plan", settings.limits.max_bytes)
        except UsageError:
            self._plan = None  # a copy of a run's folder may lack the plan
        self._settings = settings
        self._outages = 0

    def __call__(self, face: Face) -> bytes | None:
        """Return the bytes of a face's image, or None if they cannot be read.

        The caller compares their digest (`scorer.archive.report.gallery`).
        """
        if self._plan is None or self._outages == _OUTAGES:
            return None
        try:
            return self._read(self._plan, face)
        except PayloadUnavailable:
            self._outages += 1
        except _FAILURES:
            pass
        return None

    def _read(self, plan: StoredPlan, face: Face) -> bytes | None:
        shard = plan.read_shard(face.shard)
        if shard.kind == "rows":
            return next((item.data for item in plan.read_items(shard) if item.content_id == face.content_id), None)
        span = None
        if face.span_offset is not None and face.span_size is not None:
            span = ByteSpan(face.span_offset, face.span_size)
            if span.offset < 0 or span.size < 0 or not _is_file(face.uri):
                return None
        item = Item(face.content_id, face.source or "", face.uri, span=span)
        return read_image_bytes(item, plan.grant_access(self._settings.payloads))


def _is_file(uri: str) -> bool:
    """Return False for a pipe or a device of this machine: reading it could block forever."""
    store, path = open_store(uri)
    return store.scheme != LOCAL or Path(path).is_file()
