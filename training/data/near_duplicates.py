"""Pictures that are shown twice, by perceptual hashes: whole photographs, and faces within them.

All pairs of a million pictures are too many to look at. Hashes that differ in at most `k` bits agree in at least one
of `k + 1` bands (pigeonhole), so that only pictures that share a band are compared: nothing within `k` bits is missed.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_SIDE, HASH_WORDS, HASH_BITS = 16, 4, 256
SAME_PHOTO_BITS = 12  # of 256; measured: distinct photographs of one series differ in 20 and more
# Measured: two faces of one role differ in 50 and more but for a few in ten thousand pairs. In a large set these few
# would be most of its faces, so there 40 bits count within a source only, and `SAME_PHOTO_BITS` across sources.
SAME_FACE_BITS = 40
SMALL_SET = 5_000
PAIRS_AT_ONCE = 1 << 22

Hashes = NDArray[np.uint64]
Rows = NDArray[np.intp]


def hash_image(image: Image.Image) -> Hashes:
    """Return a perceptual hash of an upright image, 256 bits as [4] words.

    They are the signs of the low frequencies' horizontal differences. The hash survives a resize and a
    recompression, which is how a web site repeats one photograph.
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(grey, dtype=np.int16)
    return np.packbits(np.diff(pixels, axis=1) > 0).view(np.uint64)


def hash_turns(image: Image.Image) -> Hashes:
    """Return the hashes of `image` turned by 0, 90, 180 and 270 degrees, [4, 4]."""
    small = image.convert("L")
    return np.stack([hash_image(small.rotate(90 * turns)) for turns in range(4)])


def find_distinct(hashes_NTW: Hashes, sizes_N: NDArray[np.generic], sources_N: NDArray[np.generic]) -> Rows:
    """Return the rows of the faces that repeat no other face; of repeats the one with the largest `sizes_N` stays.

    One portrait cut, turned, marked or filtered in several ways, of which a web site shows many, counts once. Up to
    `SMALL_SET` faces all pairs are compared at `SAME_FACE_BITS`; beyond, only those within a source (of up to as many
    faces), and all at `SAME_PHOTO_BITS`.
    """
    if len(hashes_NTW) <= SMALL_SET:
        pairs = compare_all(hashes_NTW, SAME_FACE_BITS)
        return drop_repeats(np.concatenate(list(pairs)), sizes_N)
    found = [*compare_banded(hashes_NTW, SAME_PHOTO_BITS)]
    order = np.argsort(sources_N, kind="stable")
    groups = np.split(order, np.flatnonzero(sources_N[order][1:] != sources_N[order][:-1]) + 1)
    for rows in groups:
        if 1 < len(rows) <= SMALL_SET:
            found += [rows[pairs] for pairs in compare_all(hashes_NTW[rows], SAME_FACE_BITS)]
    return drop_repeats(np.concatenate(found), sizes_N)


def find_distinct_photos(hashes_NW: Hashes, bytes_N: NDArray[np.generic]) -> Rows:
    """Return the rows of the photographs that repeat no other one; of repeats the one with the most bytes stays.

    It is nearest to the camera's file.
    """
    found = [*compare_banded(hashes_NW[:, None], SAME_PHOTO_BITS)]
    return drop_repeats(np.concatenate(found), bytes_N)


def drop_repeats(pairs_P2: Rows, sizes_N: NDArray[np.generic]) -> Rows:
    """Return the rows that stay when the largest go first and each drops what it is paired with."""
    rank = np.empty(len(sizes_N), dtype=np.intp)
    rank[np.lexsort((np.arange(len(sizes_N)), -sizes_N.astype(np.float64)))] = np.arange(len(sizes_N))
    later, earlier = pairs_P2[:, 0], pairs_P2[:, 1]
    forward = rank[earlier] < rank[later]
    later, earlier = later[forward], earlier[forward]
    stays = np.ones(len(sizes_N), dtype=np.bool_)
    for row, kept in sorted(zip(later.tolist(), earlier.tolist(), strict=True), key=lambda pair: rank[pair[0]]):
        if stays[kept]:
            stays[row] = False
    return np.flatnonzero(stays)


def compare_all(hashes_NTW: Hashes, most_bits: int) -> Iterator[Rows]:
    """Yield [P, 2] pairs (a, b): some turn of `a` differs from `b` upright in at most `most_bits`."""
    upright = hashes_NTW[:, 0]
    step = max(1, PAIRS_AT_ONCE // max(1, upright.size))
    yield np.empty((0, 2), dtype=np.intp)
    for start in range(0, len(upright), step):
        part = hashes_NTW[start : start + step]
        near = np.zeros((len(part), len(upright)), dtype=np.bool_)
        for turn in range(hashes_NTW.shape[1]):
            near |= count_bits(part[:, turn, None] ^ upright) <= most_bits
        first, second = np.nonzero(near)
        different = first + start != second
        yield np.stack([first + start, second], axis=1)[different]


def compare_banded(hashes_NTW: Hashes, most_bits: int) -> Iterator[Rows]:
    """Yield the same pairs as `compare_all`, some more than once, without looking at all of them."""
    yield np.empty((0, 2), dtype=np.intp)
    upright = np.ascontiguousarray(hashes_NTW[:, 0])
    for band in range(most_bits + 1):
        keys = cut_band(upright, band, most_bits + 1)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for turn in range(hashes_NTW.shape[1]):
            turned = hashes_NTW[:, turn]
            asked = keys if turn == 0 else cut_band(turned, band, most_bits + 1)
            starts = np.searchsorted(ordered, asked, "left")
            counts = np.searchsorted(ordered, asked, "right") - starts
            for rows in _split(counts):
                # Row r of this part has counts[r] candidates, at starts[r] and on in `order`.
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


def cut_band(hashes_NW: Hashes, band: int, bands: int) -> NDArray[np.uint64]:
    """Return every `bands`-th bit from `band` on as one number: neighbouring bits often agree."""
    places = range(band, HASH_BITS, bands)
    keys = np.zeros(len(hashes_NW), dtype=np.uint64)
    for bit in places:
        word, shift = divmod(bit, HASH_BITS // HASH_WORDS)
        keys = (keys << np.uint64(1)) | ((hashes_NW[:, word] >> np.uint64(shift)) & np.uint64(1))
    return keys


def _split(counts: NDArray[np.intp]) -> Iterator[slice]:
    """Yield runs of rows with about `PAIRS_AT_ONCE` candidates."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        reached = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, reached + PAIRS_AT_ONCE, "right")))
        yield slice(start, stop)
        start = stop
