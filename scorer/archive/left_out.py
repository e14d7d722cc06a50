"""What a scan finds in its sources and does not score: the rule for names, and words for the counts.

An image is a file with the suffix of an image, a video or an animation, hidden or not. Left out by their names are:
files that macOS, Windows and NAS systems write beside photographs (`._x.jpg`, `.DS_Store`, `__MACOSX`, `Thumbs.db`,
`@eaDir`), tars and manifests (name them as a SOURCE), and files with another suffix. A file that is a SOURCE itself
always gets a row. Everything that is left out is counted. `unlensed score` applies the same rule.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath

from scorer.observe.printable import count_noun

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".jxl",
    }
)
CLIP_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".m2ts", ".3gp", ".apng", ".avifs", ".heics", ".heifs"}
)
TAR = ".tar"
MANIFESTS = frozenset({".parquet", ".csv", ".jsonl"})
COMPRESSED = frozenset({".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".lz4", ".zip", ".7z"})
_SCORED = IMAGE_SUFFIXES | CLIP_SUFFIXES
_CONTAINERS = MANIFESTS | COMPRESSED | {TAR}


class LeftOut(StrEnum):
    """Why a file, link or row is not scored; the values are keys in `summary.json`."""

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

# Singular, plural.
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


def classify_name(path: str) -> LeftOut | None:
    """Return why a file is left out by its name, or None for an image.

    Args:
        path: of the file, below the SOURCE or in the tar; the names of its folders count, too.
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
    if suffix in _SCORED:
        return None
    return LeftOut.CONTAINER if suffix in _CONTAINERS else LeftOut.NOT_IMAGE


def describe_left_out(counts: Mapping[str, int]) -> str:
    """Return the counts in words, "2 files ignored: 2 macOS sidecars; 1 row without an image"; "" for nothing."""
    files = {kind: counts.get(kind, 0) for kind in _FILES}
    total = sum(files.values())
    ignored = f"{count_noun(total, 'file')} ignored: {_join_counts(files, _FILES)}" if total else ""
    others = _join_counts({kind: counts.get(kind, 0) for kind in _OTHERS}, _OTHERS, "; ")
    return "; ".join(filter(None, (ignored, others)))


def _join_counts(counts: Mapping[LeftOut, int], words: Mapping[LeftOut, tuple[str, str]], separator: str = ", ") -> str:
    return separator.join(count_noun(count, *words[kind]) for kind, count in counts.items() if count)
