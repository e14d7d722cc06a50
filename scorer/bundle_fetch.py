"""`unlensed bundle fetch`: copy a bundle from a folder or an object store. It checks nothing: `bundle verify` does."""

from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from scorer.paths import UsageError

MAX_FILES, MAX_BYTES = 1000, 4 * 2**30  # of any real bundle


def fetch(
    source: Annotated[str, typer.Argument(help="A folder, or a prefix of an object store: s3://bucket/bundles/a.")],
    folder: Annotated[Path, typer.Argument(help="Where to: an empty folder, or one that is not there yet.")],
) -> None:
    """Copy a bundle from an object store or a folder; then `unlensed bundle verify` it."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 - only this command needs it
    from fsspec.utils import get_protocol  # noqa: PLC0415

    if folder.is_dir() and any(folder.iterdir()):
        message = f"{folder} is not empty: name another folder, so that no two bundles mix"
        raise UsageError(message)
    try:
        store, root = url_to_fs(source)
    except (ImportError, ValueError) as error:
        message = f"{source} cannot be read: {error}; each kind of store needs its own package (s3: unlensed[s3])"
        raise UsageError(message) from error
    found = {
        name: facts.get("size") or 0 for name, facts in store.find(root, detail=True).items() if facts["type"] == "file"
    }
    if not found:
        message = f"{source} holds no file; name the folder that has bundle.json in it"
        raise UsageError(message)
    if len(found) > MAX_FILES or sum(found.values()) > MAX_BYTES:
        message = f"{source} holds {len(found)} files, {sum(found.values())} bytes: that is no bundle"
        raise UsageError(message)
    for name in found:
        inside = PurePosixPath(name).relative_to(PurePosixPath(root))
        if ".." in inside.parts:
            message = f"{source} holds {name!r}, which is no plain path inside it"
            raise UsageError(message)
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        store.get_file(name, str(folder / inside))
    print(f"{folder}: {len(found)} files from {get_protocol(source)}")  # noqa: T201 - the output asked for
