"""Open an input of `prepare`, whichever kind it is."""

from pathlib import Path

from training.data.datasets import CELEBA_LISTS, CELEBA_MAPPINGS, FDF_METADATA, CelebaHqPhotos, FdfPhotos
from training.data.manifests import ParquetPhotos
from training.data.photos import FolderPhotos, PhotoSource
from training.data.tars import TarPhotos

EXIF_FOLDERS = "fdf_ccby2_exif*"  # the release's name, in all its versions


def open_source(text: str) -> PhotoSource:
    """Return the input that `text` names: tars, Parquet manifests, FDF, CelebA-HQ, or a folder of source folders.

    Args:
        text: a folder, a file, or tars in brace notation (`faces-{000..015}.tar`).

    Raises:
        FileNotFoundError: no such file or folder exists.
    """
    path = Path(text)
    if text.endswith(".tar"):
        return TarPhotos.expand(text)
    if path.suffix == ".parquet" and path.is_file():
        return ParquetPhotos((path,))
    if not path.is_dir():
        message = f"there is no folder, tar or Parquet file {text}: give a folder of photographs"
        raise FileNotFoundError(message)
    for folder in (path, path / "fdf", path / "data" / "fdf"):
        if (folder / FDF_METADATA).is_file():
            return FdfPhotos(folder, find_exif_folder(folder))
    if any((path / name).is_file() for name in CELEBA_MAPPINGS) or all(
        (path / name).is_file() for name in CELEBA_LISTS
    ):
        return CelebaHqPhotos(path)
    for pattern, kind in (("*.parquet", ParquetPhotos), ("*.tar", TarPhotos)):
        files = tuple(sorted(path.glob(pattern)))
        if files:
            return kind(files)
    return FolderPhotos(path)


def find_exif_folder(fdf: Path) -> Path | None:
    """Return the folder of EXIF JSONs in FDF's folder or up to three levels above it, where the release puts it."""
    for folder in (fdf, *list(fdf.resolve().parents)[:3]):
        found = sorted(path for path in folder.glob(EXIF_FOLDERS) if path.is_dir())
        if found:
            return found[-1]
    return None
