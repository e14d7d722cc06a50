"""Copy a bundle from a folder or an object store, without checks: `unlensed bundle verify` checks it."""

import shutil
from pathlib import Path, PurePosixPath

from scorer.bundle.manifest import MAX_BYTES, MAX_FILES
from scorer.errors import UsageError
from scorer.files import require_local

MANIFEST = "bundle.json"


def fetch_bundle(source: str, folder: Path) -> str:
    """Copy a bundle from an object store or a folder; return a sentence that states what was done.

    The manifest is written last, so that an interrupted copy is not a bundle. The same call completes an interrupted
    copy and leaves a complete one unchanged: a restarted container reuses its copy.

    Raises:
        UsageError: `source` does not contain a bundle, or `folder` contains something else.
    """
    from scorer.payloads.stores import StoreFile, open_store, store_errors  # noqa: PLC0415 - only it needs them

    require_local(folder)
    store, root = open_store(source)
    with store_errors(source):
        listed = store.files.find(root, detail=True)
    sizes = {
        _locate(name, root, source): facts["size"] or 0 for name, facts in listed.items() if facts["type"] == "file"
    }
    if MANIFEST not in sizes:
        message = f"{source} contains no {MANIFEST}; name the folder that contains it"
        raise UsageError(message)
    if len(sizes) > MAX_FILES or sum(sizes.values()) > MAX_BYTES:
        message = f"{source} contains {len(sizes)} files, {sum(sizes.values())} bytes: that is not a bundle"
        raise UsageError(message)
    with StoreFile(store.name(f"{root}/{MANIFEST}")) as file:
        manifest = file.read()
    if _is_complete(folder, sizes, manifest, source):
        return f"{folder}: all {len(sizes)} files exist already"
    for name in sizes.keys() - {MANIFEST}:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with StoreFile(store.name(f"{root}/{name}")) as file, path.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
    (folder / MANIFEST).write_bytes(manifest)
    return f"{folder}: {len(sizes)} files from {store.scheme}"


def _locate(name: str, root: str, source: str) -> str:
    inside = PurePosixPath(name).relative_to(PurePosixPath(root))
    if ".." in inside.parts:
        message = f"{source} contains {name!r}, which is not a plain path inside it"
        raise UsageError(message)
    return str(inside)


def _is_complete(folder: Path, sizes: dict[str, int], manifest: bytes, source: str) -> bool:
    """Return whether `folder` contains the complete copy; refuse any content that is not a part of it."""
    present = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    is_same = present.get(MANIFEST) is None or (folder / MANIFEST).read_bytes() == manifest
    if not is_same or not present.keys() <= sizes.keys():
        message = f"{folder} contains something else than {source}: name another folder, so that bundles do not mix"
        raise UsageError(message)
    return present == sizes
