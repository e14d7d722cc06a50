"""Folders of photographs: roles, repeats, damage."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.data.photos import list_photos, read_photos, read_roles
from training.data.shards import FaceSet, find_distinct


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


def test_one_portrait_shown_in_several_ways_counts_once() -> None:
    """Turned, marked and noisy copies of a face go, the largest and every other face stay."""
    face = np.asarray(draw(5).resize((224, 224)))
    noisy = np.clip(face + np.random.default_rng(0).normal(0, 12, face.shape), 0, 255).astype(np.uint8)
    marked = face.copy()
    marked[180:, 150:] = 255
    crops = np.stack([np.rot90(face), noisy, face, marked, np.asarray(draw(6).resize((224, 224)))])
    count = len(crops)
    names = np.array(["x"] * count)
    empty = np.zeros((count, 1, 1, 3), dtype=np.uint8)
    faces = FaceSet(
        crops,
        empty,
        np.zeros((count, 68, 2), np.float32),
        np.full((count, 4), np.nan),
        names,
        names,
        names,
        np.array([100.0, 110, 300, 120, 130]),
    )
    assert find_distinct(faces).tolist() == [2, 4]
