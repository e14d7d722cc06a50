"""Near-duplicates: hashes, the search by bands, and the pictures that are kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from training.data import near_duplicates
from training.data.near_duplicates import (
    SAME_PHOTO_BITS,
    compare_all,
    compare_bands,
    count_bits,
    drop_duplicates,
    find_distinct,
    find_distinct_photos,
    hash_image,
    hash_rotations,
)


def draw(seed: int) -> Image.Image:
    """Return a smooth random picture of 240 x 180 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((240, 180), Image.Resampling.BICUBIC)


def draw_hashes(seed: int, count: int) -> np.ndarray:
    """Return random hashes of all rotations, half of them near-duplicates."""
    rng = np.random.default_rng(seed)
    bits = rng.random((count, 4, 256)) < 0.5
    for row in range(1, count, 2):
        bits[row] = bits[row - 1]
        flipped = rng.choice(256, rng.integers(0, 21), replace=False)
        bits[row][:, flipped] ^= True
        bits[row] = np.roll(bits[row], rng.integers(4), axis=0)
    return np.packbits(bits, axis=-1).view(np.uint64)


def as_set(parts: list[np.ndarray]) -> set[tuple[int, int]]:
    """Return the pairs of several arrays."""
    return {(int(first), int(second)) for part in parts for first, second in part}


def test_a_smaller_recompressed_photograph_is_the_same() -> None:
    """Resizing and blurring hardly change a hash; another photograph's is far away."""
    large, other = hash_image(draw(1)), hash_image(draw(2))
    small = hash_image(draw(1).resize((120, 90)).filter(ImageFilter.GaussianBlur(0.5)))
    assert count_bits(large ^ small) <= SAME_PHOTO_BITS < count_bits(large ^ other)
    kept = find_distinct_photos(np.stack([small, other, large]), np.array([900, 50, 1000]))
    assert kept.tolist() == [1, 2]


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 20))
def test_bands_miss_nothing(seed: int, count: int, most_bits: int) -> None:
    """The search by bands finds exactly the pairs that a comparison of all pairs finds."""
    hashes = draw_hashes(seed, count)
    assert as_set(list(compare_bands(hashes, most_bits))) == as_set(list(compare_all(hashes, most_bits)))


def test_large_candidate_lists_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks of candidates, which bound the memory, give the same pairs."""
    hashes = draw_hashes(3, 40)
    expected = as_set(list(compare_bands(hashes, 12)))
    monkeypatch.setattr(near_duplicates, "PAIRS_PER_BLOCK", 3)
    assert as_set(list(compare_bands(hashes, 12))) == expected == as_set(list(compare_all(hashes, 12)))
    assert expected


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30), st.lists(st.integers(0, 3), min_size=10))
def test_largest_pictures_are_kept(pairs: list[tuple[int, int]], sizes: list[int]) -> None:
    """From the largest on, a picture is kept exactly if it is not paired with a kept one."""
    sizes = sizes[:10]
    order = sorted(range(10), key=lambda row: (-sizes[row], row))
    kept: list[int] = []
    for row in order:
        if not any((row, other) in pairs for other in kept):
            kept.append(row)
    found = drop_duplicates(np.array(pairs, dtype=np.intp).reshape(-1, 2), np.array(sizes))
    assert found.tolist() == sorted(kept)


def hash_crops() -> tuple[np.ndarray, np.ndarray]:
    """Return hashes and sizes of a face rotated, noisy, unchanged and marked, and of another."""
    face = np.asarray(draw(5).resize((224, 224)))
    noisy = np.clip(face + np.random.default_rng(0).normal(0, 12, face.shape), 0, 255).astype(np.uint8)
    marked = face.copy()
    marked[180:, 150:] = 255
    crops = [np.rot90(face), noisy, face, marked, np.asarray(draw(6).resize((224, 224)))]
    return np.stack([hash_rotations(Image.fromarray(crop)) for crop in crops]), np.array([100.0, 110, 300, 120, 130])


def test_altered_copies_of_a_portrait_count_once() -> None:
    """Altered copies are dropped; the largest copy and other faces are kept."""
    hashes, sizes = hash_crops()
    assert find_distinct(hashes, sizes, np.array(["x"] * 5)).tolist() == [2, 4]


def test_in_a_large_set_similar_faces_are_dropped_within_a_source_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a large set similar faces of other sources are kept, copies are not."""
    rng = np.random.default_rng(0)
    bits = np.repeat((rng.random((1, 4, 256)) < 0.5), 4, axis=0)
    bits[1:3, :, :25] ^= True  # similar
    bits[3, :, 100:110] ^= True  # the same picture
    hashes = np.packbits(bits, axis=-1).view(np.uint64)
    sizes, sources = np.array([9, 8, 7, 6]), np.array(["a", "a", "b", "c"])
    assert find_distinct(hashes, sizes, sources).tolist() == [0]
    monkeypatch.setattr(near_duplicates, "MAX_FACES_COMPARED", 3)
    # Row 2 resembles row 1, which is dropped as a duplicate of row 0.
    assert find_distinct(hashes, sizes, sources).tolist() == [0, 2]
