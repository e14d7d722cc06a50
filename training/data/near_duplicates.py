"""Find duplicates by perceptual hashes, among whole photographs and among faces.

A million pictures have too many pairs to compare. Two hashes that differ in at most `k` bits are equal in at least one
of `k + 1` bands of bits (pigeonhole principle), so only pictures with an equal band are compared. No pair within `k`
bits is missed.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_SIDE, HASH_WORDS, HASH_BITS = 16, 4, 256
SAME_PHOTO_BITS = 12  # of 256; measured: distinct photographs of one series differ in 20 or more
# Measured: two faces of one role differ in 50 bits or more, except for a few in ten thousand pairs. In a large set
# these few pairs involve most faces, so there 40 bits apply within a source only, and `SAME_PHOTO_BITS` across sources.
SAME_FACE_BITS = 40
MAX_FACES_COMPARED = 5_000
PAIRS_PER_BLOCK = 1 << 22

Hashes = NDArray[np.uint64]
Rows = NDArray[np.intp]


def hash_image(image: Image.Image) -> Hashes:
    """Return a perceptual hash of an upright image, 256 bits as [4] words.

    The bits are the signs of the horizontal differences of a small grey image. Resizing and recompression, as web sites
    do them, hardly change the hash.
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(grey, dtype=np.int16)
    return np.packbits(np.diff(pixels, axis=1) > 0).view(np.uint64)


def hash_rotations(image: Image.Image) -> Hashes:
    """Return the hashes of `image` rotated by 0, 90, 180 and 270 degrees, [4, 4]."""
    small = image.convert("L")
    return np.stack([hash_image(small.rotate(90 * turns)) for turns in range(4)])


def find_distinct(hashes_NTW: Hashes, sizes_N: NDArray[np.generic], sources_N: NDArray[np.generic]) -> Rows:
    """Return the rows of the faces without duplicates; of duplicates the one with the largest `sizes_N` is kept.

    A portrait that a web site shows cropped, rotated, marked or filtered counts once. Up to `MAX_FACES_COMPARED` faces,
    all pairs are compared at `SAME_FACE_BITS`. Beyond, pairs within a source (of at most so many faces) are compared at
    `SAME_FACE_BITS`, and all pairs at `SAME_PHOTO_BITS`.
    """
    if len(hashes_NTW) <= MAX_FACES_COMPARED:
        pairs = compare_all(hashes_NTW, SAME_FACE_BITS)
        return drop_duplicates(np.concatenate(list(pairs)), sizes_N)
    found = [*compare_bands(hashes_NTW, SAME_PHOTO_BITS)]
    order = np.argsort(sources_N, kind="stable")
    groups = np.split(order, np.flatnonzero(sources_N[order][1:] != sources_N[order][:-1]) + 1)
    for rows in groups:
        if 1 < len(rows) <= MAX_FACES_COMPARED:
            found += [rows[pairs] for pairs in compare_all(hashes_NTW[rows], SAME_FACE_BITS)]
    return drop_duplicates(np.concatenate(found), sizes_N)


def find_distinct_photos(hashes_NW: Hashes, bytes_N: NDArray[np.generic]) -> Rows:
    """Return the rows of the photographs without duplicates; of duplicates the largest file is kept.

    It is closest to the camera's file.
    """
    found = [*compare_bands(hashes_NW[:, None], SAME_PHOTO_BITS)]
    return drop_duplicates(np.concatenate(found), bytes_N)


def drop_duplicates(pairs_P2: Rows, sizes_N: NDArray[np.generic]) -> Rows:
    """Return the rows that are kept if, from the largest on, each kept row removes the rows that it is paired with."""
    rank = np.empty(len(sizes_N), dtype=np.intp)
    rank[np.lexsort((np.arange(len(sizes_N)), -sizes_N.astype(np.float64)))] = np.arange(len(sizes_N))
    later, earlier = pairs_P2[:, 0], pairs_P2[:, 1]
    forward = rank[earlier] < rank[later]
    later, earlier = later[forward], earlier[forward]
    kept = np.ones(len(sizes_N), dtype=np.bool_)
    for row, larger in sorted(zip(later.tolist(), earlier.tolist(), strict=True), key=lambda pair: rank[pair[0]]):
        if kept[larger]:
            kept[row] = False
    return np.flatnonzero(kept)


def compare_all(hashes_NTW: Hashes, most_bits: int) -> Iterator[Rows]:
    """Yield [P, 2] pairs (a, b): a rotation of `a` differs from `b` upright in at most `most_bits`."""
    upright = hashes_NTW[:, 0]
    step = max(1, PAIRS_PER_BLOCK // max(1, upright.size))
    yield np.empty((0, 2), dtype=np.intp)
    for start in range(0, len(upright), step):
        part = hashes_NTW[start : start + step]
        near = np.zeros((len(part), len(upright)), dtype=np.bool_)
        for turn in range(hashes_NTW.shape[1]):
            near |= count_bits(part[:, turn, None] ^ upright) <= most_bits
        first, second = np.nonzero(near)
        different = first + start != second
        yield np.stack([first + start, second], axis=1)[different]


def compare_bands(hashes_NTW: Hashes, most_bits: int) -> Iterator[Rows]:
    """Yield the pairs of `compare_all`, some more than once, without comparing all pairs."""
    yield np.empty((0, 2), dtype=np.intp)
    upright = np.ascontiguousarray(hashes_NTW[:, 0])
    for band in range(most_bits + 1):
        keys = extract_band(upright, band, most_bits + 1)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for turn in range(hashes_NTW.shape[1]):
            turned = hashes_NTW[:, turn]
            asked = keys if turn == 0 else extract_band(turned, band, most_bits + 1)
            starts = np.searchsorted(ordered, asked, "left")
            counts = np.searchsorted(ordered, asked, "right") - starts
            for rows in _split_rows(counts):
                # Row r of this part has counts[r] candidates, from starts[r] on in `order`.
                first = np.repeat(np.arange(rows.start, rows.stop), counts[rows])
                ends = np.cumsum(counts[rows])
                offsets = np.arange(len(first)) - np.repeat(ends - counts[rows], counts[rows])
                second = order[np.repeat(starts[rows], counts[rows]) + offsets]
                near = (first != second) & (count_bits(turned[first] ^ upright[second]) <= most_bits)
                yield np.stack([first[near], second[near]], axis=1)


def count_bits(words: Hashes) -> NDArray[np.uint16]:
    """Return the set bits of each hash, over the last axis."""
    counted: NDArray[np.uint16] = np.bitwise_count(words).sum(axis=-1, dtype=np.uint16)
    return counted


def extract_band(hashes_NW: Hashes, band: int, bands: int) -> NDArray[np.uint64]:
    """Return every `bands`-th bit from `band` on as one number. Neighbouring bits, often equal, are in other bands."""
    keys = np.zeros(len(hashes_NW), dtype=np.uint64)
    for bit in range(band, HASH_BITS, bands):
        word, shift = divmod(bit, HASH_BITS // HASH_WORDS)
        keys = (keys << np.uint64(1)) | ((hashes_NW[:, word] >> np.uint64(shift)) & np.uint64(1))
    return keys


def _split_rows(counts: NDArray[np.intp]) -> Iterator[slice]:
    """Yield slices of rows with about `PAIRS_PER_BLOCK` candidates each."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        reached = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, reached + PAIRS_PER_BLOCK, "right")))
        yield slice(start, stop)
        start = stop
