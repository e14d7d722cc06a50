"""Copies a bundle from a folder or an object store. It checks nothing: `unlensed bundle verify` does."""

import shutil
from pathlib import Path, PurePosixPath

from scorer.bundle.manifest import MAX_BYTES, MAX_FILES
from scorer.errors import UsageError
from scorer.files import require_local

MANIFEST = "bundle.json"


def fetch_bundle(source: str, folder: Path) -> str:
    """Copy a bundle from an object store or a folder; return what was done, in a sentence.

    The manifest is written last, so that a copy which was interrupted is no bundle. The same call finishes it, and
    leaves a complete one alone: a container that is started again finds what it left.

    Raises:
        UsageError: `source` holds no bundle, or `folder` something else.
    """
    from scorer.payloads.stores import StoreFile, open_store, store_errors  # noqa: PLC0415 - only it needs them

    require_local(folder)
    store, root = open_store(source)
    with store_errors(source):
        listed = store.files.find(root, detail=True)
    sizes = {
        _place(name, root, source): facts["size"] or 0 for name, facts in listed.items() if facts["type"] == "file"
    }
    if MANIFEST not in sizes:
        message = f"{source} holds no {MANIFEST}; name the folder that has it"
        raise UsageError(message)
    if len(sizes) > MAX_FILES or sum(sizes.values()) > MAX_BYTES:
        message = f"{source} holds {len(sizes)} files, {sum(sizes.values())} bytes: that is no bundle"
        raise UsageError(message)
    with StoreFile(store.name(f"{root}/{MANIFEST}")) as file:
        manifest = file.read()
    if _is_there(folder, sizes, manifest, source):
        return f"{folder}: the {len(sizes)} files are there already"
    for place in sizes.keys() - {MANIFEST}:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with StoreFile(store.name(f"{root}/{place}")) as file, path.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
    (folder / MANIFEST).write_bytes(manifest)
    return f"{folder}: {len(sizes)} files from {store.scheme}"


def _place(name: str, root: str, source: str) -> str:
    inside = PurePosixPath(name).relative_to(PurePosixPath(root))
    if ".." in inside.parts:
        message = f"{source} holds {name!r}, which is no plain path inside it"
        raise UsageError(message)
    return str(inside)


def _is_there(folder: Path, sizes: dict[str, int], manifest: bytes, source: str) -> bool:
    """Return whether `folder` holds the copy; refuse what is neither it nor a part of it."""
    there = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    own = there.get(MANIFEST) is None or (folder / MANIFEST).read_bytes() == manifest
    if not own or not there.keys() <= sizes.keys():
        message = f"{folder} holds something else than {source}: name another folder, so that no two bundles mix"
        raise UsageError(message)
    return there == sizes
