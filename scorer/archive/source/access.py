"""Which images a scan may read, and reading one.

What a SOURCE names may be read because it was named: a folder or the folder of a glob with all below, a file; the
folder of a local manifest, and of a manifest in an object store its bucket. Whatever else a manifest names must be
listed in `payloads` of the settings, as for the stream: its author need not be who runs the scan. Links are followed
first and judged then; `http://` is never read.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from ingest.reasons import Reason, Unscorable
from scorer.archive.items import ByteSpan, Item
from scorer.errors import SourceChanged
from scorer.payloads.names import show_uri
from scorer.payloads.read import read_uri
from scorer.payloads.stores import LOCAL, open_store, store_errors
from scorer.settings import PayloadSettings


@dataclass(frozen=True, slots=True)
class Access:
    """What may be read.

    Attributes:
        named: URIs that SOURCEs name; one that ends in "/" stands for all below.
        payloads: what may be read besides.
        max_bytes: of one image; a larger one is refused before it is read whole.
    """

    named: tuple[str, ...]
    payloads: PayloadSettings
    max_bytes: int
    _files: PayloadSettings = field(init=False, repr=False)  # the settings for every file, which do not vary

    def __post_init__(self) -> None:
        roots = tuple(_path_of(name) for name in self.named if name.startswith("file://"))
        own = self.payloads.file_roots if LOCAL in self.payloads.schemes else ()
        files = self.payloads.model_copy(update={"schemes": (LOCAL,), "file_roots": (*roots, *own)})
        object.__setattr__(self, "_files", files)

    def admits(self, uri: str) -> bool:
        """Return whether reading `uri` would be tried; a file's links are judged only then."""
        scheme = uri.partition("://")[0].lower()
        settings = self._settings_for(uri)
        if scheme == LOCAL:
            path = Path(os.path.normpath(os.fsdecode(unquote_to_bytes(urlsplit(uri).path))))
            return any(path.is_relative_to(root.absolute()) for root in settings.file_roots)
        return scheme in settings.schemes or (scheme == "https" and bool(settings.https_hosts))

    def read(self, uri: str) -> bytes:
        """Return the bytes at `uri`.

        Raises:
            Unscorable: forbidden_uri, unreadable or too_many_bytes.
            PayloadUnavailable: the store did not answer in time, or does not let this machine in.
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


def _path_of(uri: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))


def read_image_bytes(item: Item, access: Access) -> bytes:
    """Return the encoded image of an item; safe to call from many threads.

    Raises:
        Unscorable: forbidden_uri, unreadable or too_many_bytes: asking again would not help.
        PayloadUnavailable: the store did not answer in time, or does not let this machine in.
        SourceChanged: the tar that holds it is gone, or shorter than it was.
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
    """Read one member of a tar again, alone. Nothing tells whether it is still the same: its SHA-256 does.

    Raises:
        SourceChanged: the tar is gone, or ends before the member does.
        PayloadUnavailable: the store fails.
    """
    store, path = open_store(uri)
    data = b""
    try:
        if span.size:  # stores have no range of nothing
            with store_errors(uri):
                data = bytes(store.files.cat_file(path, start=span.offset, end=span.offset + span.size))
    except FileNotFoundError:
        message = f"{show_uri(uri)} is gone"
        raise SourceChanged(message) from None
    if len(data) < span.size:
        message = f"{show_uri(uri)} ends before byte {span.offset + span.size}: it is another file by now"
        raise SourceChanged(message)
    return data
