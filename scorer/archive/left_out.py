"""What a scan is given and does not score: the rule for names, which `score` follows, too, and words for the counts.

An image is a file with an image's suffix, hidden or not. By their names are left out: what macOS, Windows and NAS
systems write beside photographs (`._x.jpg`, `.DS_Store`, `__MACOSX`, `Thumbs.db`, `@eaDir`), tars and manifests (a
SOURCE of their own) and whatever has another suffix. A file that is a SOURCE itself is always answered for. Nothing is
left out without being counted.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
)
TAR = ".tar"
MANIFESTS = frozenset({".parquet", ".csv", ".jsonl"})
COMPRESSED = frozenset({".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".lz4", ".zip", ".7z"})


class LeftOut(StrEnum):
    """Why something is not scored; the values are part of `summary.json`."""

    MACOS_SIDECAR = "macos_sidecars"
    THUMBNAIL = "thumbnails"
    CONTAINER = "containers"
    FOLDER_LINK = "folder_links"
    TAR_LINK = "tar_links"
    SPECIAL = "special_files"
    NOT_IMAGE = "not_images"
    DUPLICATE = "duplicates"
    IMAGELESS_ROW = "rows_without_image"
    EMPTY_CONTAINER = "empty_containers"
    NO_BOXES = "images_without_boxes"


SIDECARS = frozenset({LeftOut.MACOS_SIDECAR, LeftOut.THUMBNAIL})
_SIDECAR_NAMES = {
    ".ds_store": LeftOut.MACOS_SIDECAR,
    "thumbs.db": LeftOut.THUMBNAIL,
    "ehthumbs.db": LeftOut.THUMBNAIL,
    "ehthumbs_vista.db": LeftOut.THUMBNAIL,
}
_SIDECAR_FOLDERS = {"__MACOSX": LeftOut.MACOS_SIDECAR, "@eaDir": LeftOut.THUMBNAIL}
_APPLE_DOUBLE = "._"

# Of one, of several.
_FILES = {
    LeftOut.MACOS_SIDECAR: ("macOS sidecar", "macOS sidecars"),
    LeftOut.THUMBNAIL: ("file of a system's thumbnails", "files of a system's thumbnails"),
    LeftOut.CONTAINER: (
        "tar, manifest or compressed archive (name it as a SOURCE)",
        "tars, manifests or compressed archives (name them as SOURCEs)",
    ),
    LeftOut.FOLDER_LINK: ("link to a folder", "links to folders"),
    LeftOut.TAR_LINK: ("link in a tar", "links in tars"),
    LeftOut.SPECIAL: ("device or pipe in a tar", "devices or pipes in tars"),
    LeftOut.NOT_IMAGE: ("not an image by its name", "not images by their name"),
}
_OTHERS = {
    LeftOut.DUPLICATE: ("duplicate (named again)", "duplicates (named again)"),
    LeftOut.IMAGELESS_ROW: ("row without an image", "rows without an image"),
    LeftOut.NO_BOXES: ("image that --faces does not name", "images that --faces does not name"),
    LeftOut.EMPTY_CONTAINER: ("tar or manifest part without an image", "tars or manifest parts without an image"),
}


def judge_name(path: str) -> LeftOut | None:
    """Return why a file is left out by its name, None for an image.

    Args:
        path: of the file, below the SOURCE or in the tar; the folders on the way count, too.
    """
    parts = PurePosixPath(path).parts
    for folder in parts[:-1]:
        if folder in _SIDECAR_FOLDERS:
            return _SIDECAR_FOLDERS[folder]
    name = parts[-1] if parts else ""
    if name.startswith(_APPLE_DOUBLE):
        return LeftOut.MACOS_SIDECAR
    if name.lower() in _SIDECAR_NAMES:
        return _SIDECAR_NAMES[name.lower()]
    _, dot, ending = name.lower().rpartition(".")
    suffix = dot + ending
    if suffix in IMAGE_SUFFIXES:
        return None
    return LeftOut.CONTAINER if suffix == TAR or suffix in MANIFESTS | COMPRESSED else LeftOut.NOT_IMAGE


def describe_left_out(counts: Mapping[str, int]) -> str:
    """Return the counts in words, "2 files ignored: 2 macOS sidecars; 1 row without an image"; "" for nothing."""
    files = {kind: counts.get(kind, 0) for kind in _FILES}
    total = sum(files.values())
    said = [f"{total:,} {'file' if total == 1 else 'files'} ignored: {_say(files, _FILES)}"] if total else []
    others = _say({kind: counts.get(kind, 0) for kind in _OTHERS}, _OTHERS, "; ")
    return "; ".join([*said, others] if others else said)


def _say(counts: Mapping[LeftOut, int], words: Mapping[LeftOut, tuple[str, str]], between: str = ", ") -> str:
    return between.join(f"{count:,} {words[kind][count != 1]}" for kind, count in counts.items() if count)
