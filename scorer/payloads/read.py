"""Read the bytes of the image of a request: inline, or by a claim check that names a file in a store.

Everything is refused until `payloads` in the settings lists it. A fault of the image or its URI raises `Unscorable`,
which becomes a result; a fault of a store raises `PayloadUnavailable`, because an outage must never become a result.
Object stores are read with the credentials of this machine, so these must allow no more than every producer of requests
may read.
"""

import asyncio
import errno
import hashlib
import os
import random
import stat
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem

from ingest.reasons import Reason, Unscorable
from scorer.errors import PayloadRefused, PayloadUnavailable, SettingsError
from scorer.messages import ScoreRequest
from scorer.payloads.clients import describe_access_denied, is_access_denied, require_client
from scorer.payloads.https import PUBLIC_NETWORK, Network, TemporaryFailure, describe_uri, fetch_https, seconds_left
from scorer.payloads.local_file import decode_file_uri
from scorer.settings import PayloadSettings

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
_NOT_BY_FSSPEC = frozenset({"http", "https", "local"})  # fsspec would ignore the lists of hosts and file roots
# Errors of the disk, the network or the limits of this process, not of the file.
TRANSIENT_ERRNOS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
INVALID_NAME_ERRORS = frozenset({"ValueError", "ParamValidationError"})  # the second is of botocore
# Stores without an asynchronous client block a thread; this pool limits how many.
_READERS = ThreadPoolExecutor(16, "payload-store")


def check_payloads(settings: PayloadSettings) -> None:
    """Refuse settings with which no claim check can be read.

    Raises:
        SettingsError: a scheme has its own setting or its package is not installed; a root is not a folder.
    """
    for scheme in settings.schemes:
        if scheme in _NOT_BY_FSSPEC:
            message = f"payloads.schemes lists {scheme!r}: https:// has payloads.https_hosts, files have 'file'"
            raise SettingsError(message)
        try:
            require_client(scheme)
        except ValueError as error:
            message = f"payloads.schemes lists {scheme!r}, which cannot be read here: {error}"
            raise SettingsError(message) from error
    if ("file" in settings.schemes) != bool(settings.file_roots):
        message = "payloads.schemes lists 'file' exactly when payloads.file_roots names the folders it may read"
        raise SettingsError(message)
    for root in settings.file_roots:
        if not root.is_dir():
            message = f"payloads.file_roots names {root}, which is not a folder"
            raise SettingsError(message)


def read_payload(
    request: ScoreRequest, settings: PayloadSettings, max_bytes: int, network: Network = PUBLIC_NETWORK
) -> bytes:
    """Return the encoded image of a request; thread-safe.

    Raises:
        Unscorable: forbidden_uri, unreadable, too_many_bytes or digest_mismatch; a retry would not help.
        PayloadUnavailable: the store did not answer within `settings.timeout_s`, or denies access.
    """
    source = request.image
    data = read_uri(str(source.uri), settings, max_bytes, network) if source.data is None else source.data
    _require_size(data, max_bytes)
    if source.sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != source.sha256:
        raise Unscorable(Reason.DIGEST_MISMATCH, f"the image's SHA-256 is {found}, the request states {source.sha256}")
    return data


def _require_size(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"more than the limit of {max_bytes} bytes")


def read_uri(uri: str, settings: PayloadSettings, max_bytes: int, network: Network = PUBLIC_NETWORK) -> bytes:
    """Return the bytes at a URI that `settings` allow; thread-safe.

    Raises:
        Unscorable: forbidden_uri, unreadable or too_many_bytes; a retry would not help.
        PayloadUnavailable: the store did not answer within `settings.timeout_s`, or denies access.
    """
    data = _fetch(uri, settings, max_bytes, network)
    _require_size(data, max_bytes)
    return data


def _fetch(uri: str, settings: PayloadSettings, max_bytes: int, network: Network) -> bytes:
    scheme = uri.partition(":")[0].lower()
    deadline = time.monotonic() + settings.timeout_s
    if scheme == "https" and settings.https_hosts:
        return _retry(lambda: fetch_https(uri, settings.https_hosts, max_bytes, deadline, network), deadline)
    if scheme not in settings.schemes or scheme in _NOT_BY_FSSPEC:
        raise Unscorable(Reason.FORBIDDEN_URI, f"{describe_uri(uri)}: the scheme is not in payloads.schemes")
    if scheme == "file":
        return read_file(uri, settings.file_roots, max_bytes)
    return _retry(lambda: _read_store(uri, scheme, max_bytes, deadline), deadline)


def _retry(read: Callable[[], bytes], deadline: float) -> bytes:
    """Read; retry after growing pauses until `deadline`."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return read()
        except TemporaryFailure as error:
            wait_s = pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
            if time.monotonic() + wait_s >= deadline:
                raise PayloadUnavailable(str(error)) from None
        time.sleep(wait_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def read_file(uri: str, roots: tuple[Path, ...], max_bytes: int) -> bytes:
    """Read a regular file that lies, after all links are resolved, under one of `roots`.

    The check is made on the opened file, so that replacing a link in between has no effect. A local file
    has no time limit, because the system offers none.

    Raises:
        Unscorable: forbidden_uri, unreadable or too_many_bytes.
        PayloadUnavailable: the file system fails.
    """
    if urlsplit(uri).netloc not in {"", "localhost"}:
        raise Unscorable(Reason.FORBIDDEN_URI, f"{describe_uri(uri)}: a file:// URI names a file of this machine")
    try:
        real = decode_file_uri(uri).resolve()
        real_roots = [root.resolve() for root in roots]
        _require_root(real, real_roots)  # before opening: a file elsewhere is not touched
        # A FIFO must not block, a terminal must not become the controlling one, and a new link is not followed.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _require_root(Path(f"/proc/self/fd/{descriptor}").readlink(), real_roots)
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise Unscorable(Reason.UNREADABLE, "not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(min(facts.st_size, max_bytes) + 1)  # reading up to the limit would allocate more
        finally:
            os.close(descriptor)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; a cycle of links
        is_cycle = isinstance(error, RuntimeError)
        text = getattr(error, "strerror", None) or ("a cycle of links" if is_cycle else "not a file name")
        if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
            message = f"{describe_uri(uri)}: {text}"
            raise PayloadUnavailable(message) from error
        raise Unscorable(Reason.UNREADABLE, text) from error


def _require_root(path: Path, real_roots: list[Path]) -> None:
    if not any(path.is_relative_to(home) for home in real_roots):
        raise Unscorable(Reason.FORBIDDEN_URI, "the file is not under payloads.file_roots")


def _read_store(uri: str, scheme: str, max_bytes: int, deadline: float) -> bytes:
    name = describe_uri(uri)
    try:
        store = fsspec.filesystem(scheme)
        if isinstance(store, AsyncFileSystem):
            reading = asyncio.run_coroutine_threadsafe(_read_range(store, uri, max_bytes), store.loop)
        else:
            reading = _READERS.submit(lambda: fsspec.filesystem(scheme).cat_file(uri, start=0, end=max_bytes + 1))
        return _wait(reading, deadline)
    except (FileNotFoundError, IsADirectoryError):
        raise Unscorable(Reason.UNREADABLE, f"{name} does not exist") from None
    except TimeoutError:
        message = f"{name}: the store did not answer in time"
        raise TemporaryFailure(message) from None
    except Exception as error:  # noqa: BLE001 - every client has its own exceptions, whose texts may contain secrets
        if is_access_denied(error):
            message = f"{name}: {describe_access_denied(scheme)}"
            raise PayloadRefused(message) from None
        if type(error).__name__ in INVALID_NAME_ERRORS:
            raise Unscorable(Reason.UNREADABLE, f"{name} is not a valid name in the store") from None
        message = f"{name}: the store failed ({type(error).__name__})"
        raise TemporaryFailure(message) from None


def _wait(reading: "Future[bytes]", deadline: float) -> bytes:
    try:
        return reading.result(seconds_left(deadline))
    finally:
        reading.cancel()


async def _read_range(store: AsyncFileSystem, uri: str, max_bytes: int) -> bytes:
    try:
        data: bytes = await store._cat_file(uri, start=0, end=max_bytes + 1)  # noqa: SLF001 - fsspec's asynchronous API
    except OSError as error:
        # S3 refuses a range request for an empty object as invalid.
        if error.errno != errno.EINVAL or (await store._info(uri))["size"]:  # noqa: SLF001 - as above
            raise
        return b""
    return data
