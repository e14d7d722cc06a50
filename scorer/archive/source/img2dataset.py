"""Output folders of img2dataset: recognised by `NNNNN_stats.json`, which it writes when a shard is complete."""

import json
import os
import posixpath
import re
from collections.abc import Iterator

from scorer.archive.source.containers import Container, describe_tar, split_rows
from scorer.archive.source.parquet import open_parquet
from scorer.errors import UsageError
from scorer.payloads.names import show_uri
from scorer.payloads.stores import LOCAL, Store, StoreFile, store_errors

_STATS = "_stats.json"
_OURS = re.compile(rf"\d+(\.tar|\.parquet|{re.escape(_STATS)})?")
_IMAGE_COLUMNS = ("jpg", "png", "webp")
_MAX_STATS_BYTES = 2**22  # it counts each distinct error message


def is_part(name: str) -> bool:
    """Return whether a file in the folder has a name that img2dataset writes."""
    return _OURS.fullmatch(name) is not None


def find_shards(store: Store, folder: str) -> dict[str, set[str]] | None:
    """Return the names of img2dataset's shards in a folder, each with the endings of its files.

    None if there is no such shard, or if the shards are plain folders of images, which are listed like any folder.

    Raises:
        UsageError: a shard has no statistics, so it is not complete.
        PayloadUnavailable: the store fails.
    """
    shards: dict[str, set[str]] = {}
    for name in _names(store, folder):
        if is_part(name):
            stem = name.removesuffix(_STATS).partition(".")[0]
            shards.setdefault(stem, set()).add(name.removeprefix(stem))
    if not any(_STATS in endings for endings in shards.values()):
        return None
    for stem, endings in sorted(shards.items()):
        if _STATS not in endings:
            message = (
                f"{show_uri(store.name(folder))} contains {stem} without {stem}{_STATS}: img2dataset is still running "
                "or was stopped; let it finish, or name only the complete files"
            )
            raise UsageError(message)
    return None if any("" in endings for endings in shards.values()) else shards


def _names(store: Store, folder: str) -> Iterator[str]:
    with store_errors(store.name(folder)):
        if store.scheme != LOCAL:
            yield from (posixpath.basename(str(path).rstrip("/")) for path in store.files.ls(folder, detail=False))
            return
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)


def list_shards(store: Store, folder: str, shards: dict[str, set[str]], shard_images: int) -> Iterator[Container]:
    """Yield the tars, or the row groups of the Parquet files, that contain the images.

    Raises:
        UsageError: a shard has statistics but no images.
        PayloadUnavailable: the store fails.
    """
    for stem, endings in sorted(shards.items()):
        uri = store.name(posixpath.join(folder, stem))
        if ".tar" in endings:
            yield describe_tar(f"{uri}.tar", _count_successes(f"{uri}{_STATS}"))
        elif ".parquet" in endings:
            yield from split_rows(f"{uri}.parquet", _image_column(f"{uri}.parquet"), None, shard_images)
        else:
            message = f"{show_uri(uri)}{_STATS} has no images: {stem}.tar or {stem}.parquet is missing"
            raise UsageError(message)


def _count_successes(uri: str) -> int:
    with StoreFile(uri) as file:
        text = file.read(_MAX_STATS_BYTES)
    try:
        return int(json.loads(text)["successes"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{show_uri(uri)} is not a statistics file of img2dataset: it has no count of successes"
        raise UsageError(message) from error


def _image_column(uri: str) -> str:
    with open_parquet(uri) as parquet:
        found = [name for name in _IMAGE_COLUMNS if name in parquet.schema_arrow.names]
    if len(found) != 1:
        message = f"{show_uri(uri)} has no column {' or '.join(map(repr, _IMAGE_COLUMNS))} with the images"
        raise UsageError(message)
    return found[0]
