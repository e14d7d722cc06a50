"""Which images a scan may read, and reading one.

A SOURCE permits reading what it names: a file; a folder or a glob's folder with everything below; a local manifest's
folder, or the bucket of a manifest in an object store. Other images that a manifest names must be listed in `payloads`
of the settings, as for the stream: the manifest's author may be a stranger. Links are resolved before the check;
`http://` is never read.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ingest.reasons import Reason, Unscorable
from scorer.archive.items import ByteSpan, Item
from scorer.errors import SourceChanged
from scorer.payloads.local_file import decode_file_uri
from scorer.payloads.names import show_uri
from scorer.payloads.read import read_uri
from scorer.payloads.stores import LOCAL, open_store, store_errors
from scorer.settings import PayloadSettings


@dataclass(frozen=True, slots=True)
class Access:
    """What may be read.

    Attributes:
        named: URIs that SOURCEs name; one that ends in "/" includes everything below it.
        payloads: what else may be read.
        max_bytes: of one image; a larger one is refused before all of it is read.
    """

    named: tuple[str, ...]
    payloads: PayloadSettings
    max_bytes: int
    _files: PayloadSettings = field(init=False, repr=False)  # the settings for all local files

    def __post_init__(self) -> None:
        roots = tuple(decode_file_uri(name) for name in self.named if name.startswith("file://"))
        own = self.payloads.file_roots if LOCAL in self.payloads.schemes else ()
        files = self.payloads.model_copy(update={"schemes": (LOCAL,), "file_roots": (*roots, *own)})
        object.__setattr__(self, "_files", files)

    def admits(self, uri: str) -> bool:
        """Return whether `uri` is permitted; a file's links are resolved and checked only by `read`."""
        scheme = uri.partition("://")[0].lower()
        settings = self._settings_for(uri)
        if scheme == LOCAL:
            path = Path(os.path.normpath(decode_file_uri(uri)))
            return any(path.is_relative_to(root.absolute()) for root in settings.file_roots)
        return scheme in settings.schemes or (scheme == "https" and bool(settings.https_hosts))

    def read(self, uri: str) -> bytes:
        """Return the bytes at `uri`.

        Raises:
            Unscorable: forbidden_uri, unreadable or too_many_bytes.
            PayloadUnavailable: the store did not answer in time, or refuses this machine.
        """
        return read_uri(uri, self._settings_for(uri), self.max_bytes)

    def _settings_for(self, uri: str) -> PayloadSettings:
        scheme = uri.partition("://")[0].lower()
        settings = self.payloads
        if scheme == LOCAL:
            return self._files
        if any(uri == name or (name.endswith("/") and uri.startswith(name)) for name in self.named):
            return settings.model_copy(update={"schemes": (*settings.schemes, scheme)})
        return settings


def read_image_bytes(item: Item, access: Access) -> bytes:
    """Return the encoded image of an item; thread-safe.

    Raises:
        Unscorable: forbidden_uri, unreadable or too_many_bytes: a second attempt would fail, too.
        PayloadUnavailable: the store did not answer in time, or refuses this machine.
        SourceChanged: the tar that contains it is missing, or shorter than before.
    """
    if item.problem:
        raise Unscorable(Reason.UNREADABLE, item.problem)
    if item.oversized:
        raise Unscorable(Reason.TOO_MANY_BYTES, item.oversized)
    if item.data is not None:
        return item.data
    if item.span is None:
        return access.read(item.uri)
    if item.span.size > access.max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"{item.span.size} bytes, the limit is {access.max_bytes}")
    return read_span(item.uri, item.span)


def read_span(uri: str, span: ByteSpan) -> bytes:
    """Read one member of a tar again. Whether its bytes are still the same, only its SHA-256 shows.

    Raises:
        SourceChanged: the tar is missing, or ends before the member's end.
        PayloadUnavailable: the store fails.
    """
    store, path = open_store(uri)
    data = b""
    try:
        if span.size:  # a store cannot return an empty range
            with store_errors(uri):
                data = bytes(store.files.cat_file(path, start=span.offset, end=span.offset + span.size))
    except FileNotFoundError:
        message = f"{show_uri(uri)} no longer exists"
        raise SourceChanged(message) from None
    if len(data) < span.size:
        message = f"{show_uri(uri)} ends before byte {span.offset + span.size}: it has been replaced or truncated"
        raise SourceChanged(message)
    return data
