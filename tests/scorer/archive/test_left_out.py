"""What a scan leaves out: the rule for names, and words for the counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.archive.left_out import IMAGE_SUFFIXES, LeftOut, classify_name, describe_left_out


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", None),
        ("A/B.HEIC", None),
        ("A/B.jxl", None),
        ("A/B.avifs", None),
        (".hidden.png", None),
        (".thumbnails/a.jpg", None),
        (".jpg", None),
        ("a.jpg/", None),
        ("a//b.jpg", None),
        ("\udcff.jpg", None),
        ("._a.jpg", LeftOut.MACOS_SIDECAR),
        ("x/.DS_Store", LeftOut.MACOS_SIDECAR),
        ("x/__MACOSX/y/a.jpg", LeftOut.MACOS_SIDECAR),
        ("x/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", LeftOut.THUMBNAIL),
        ("Thumbs.db", LeftOut.THUMBNAIL),
        ("ehthumbs.db", LeftOut.THUMBNAIL),
        ("a.tar", LeftOut.CONTAINER),
        ("a.PARQUET", LeftOut.CONTAINER),
        ("a.tar.gz", LeftOut.CONTAINER),
        ("a.zip", LeftOut.CONTAINER),
        ("jpg", LeftOut.NOT_IMAGE),
        ("a.jpg.txt", LeftOut.NOT_IMAGE),
        ("", LeftOut.NOT_IMAGE),
    ],
)
def test_names_are_classified(path: str, expected: LeftOut | None) -> None:
    """Hidden images are images; files of systems beside them, and containers, are not."""
    assert classify_name(path) is expected


@given(st.text(st.characters(exclude_characters="/"), min_size=1), st.sampled_from(sorted(IMAGE_SUFFIXES)))
def test_a_name_with_an_image_suffix_is_an_image(stem: str, suffix: str) -> None:
    """Every name with an image's suffix is an image's, except with the prefix of a sidecar."""
    assert classify_name(stem + suffix) == (LeftOut.MACOS_SIDECAR if stem.startswith("._") else None)


def test_counts_are_described_in_words() -> None:
    """Files are summed, nouns have a singular and a plural, and no count is an empty text."""
    counts = {"macos_sidecars": 12, "not_images": 2, "duplicates": 3, "rows_without_image": 1}
    assert describe_left_out(counts) == (
        "14 files ignored: 12 macOS sidecars, 2 not images by their name; 3 duplicates (named again); "
        "1 row without an image"
    )
    assert describe_left_out({"not_images": 1}) == "1 file ignored: 1 not an image by its name"
    assert describe_left_out({"rows_without_image": 2}) == "2 rows without an image"
    assert describe_left_out({"duplicates": 0}) == ""


def test_every_kind_has_words() -> None:
    """The description contains the count of each kind."""
    for kind in LeftOut:
        assert describe_left_out({kind: 7}).count("7") >= 1
