"""Folders of photographs: roles, repeats, damage."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.data.photos import list_photos, read_photos, read_roles


def draw(seed: int) -> Image.Image:
    """Return a smooth random picture of 240 x 180 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((240, 180), Image.Resampling.BICUBIC)


def test_repeats_are_dropped_across_sources_and_the_largest_file_stays(tmp_path: Path) -> None:
    """A photograph that another role shows smaller and recompressed counts once."""
    for source in ("a+one", "b+two"):
        (tmp_path / source).mkdir()
    draw(1).save(tmp_path / "a+one" / "large.jpg", quality=95)
    draw(1).resize((120, 90)).filter(ImageFilter.GaussianBlur(0.5)).save(tmp_path / "b+two" / "small.jpg", quality=60)
    draw(2).save(tmp_path / "b+two" / "other.jpg")
    (tmp_path / "b+two" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    photos, dropped = read_photos(tmp_path, {"a+one": "train", "b+two": "test"})
    assert [(photo.path.name, photo.role) for photo in photos] == [("large.jpg", "train"), ("other.jpg", "test")]
    assert dropped == {"unreadable": 1, "near_duplicate": 1}


def test_unknown_role_is_refused(tmp_path: Path) -> None:
    """The sentence names the source, the role and what would do."""
    table = tmp_path / "sources.csv"
    table.write_text("repo,role,note\na/one,train,\nb/two,validation,\n")
    with pytest.raises(ValueError, match=r"b\+two has role 'validation'; use one of train, fit, calibrate, test"):
        read_roles(table)


def test_missing_source_is_named(tmp_path: Path) -> None:
    """A source of the table without a folder stops the run before any work."""
    with pytest.raises(FileNotFoundError, match="collect the photographs of a"):
        list_photos(tmp_path, {"a+one": "train"})
