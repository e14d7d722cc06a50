"""The stratum of a face."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.strata import Stratum, stratum_of

SIDES = st.floats(0, 1e5)
QUALITIES = st.integers(1, 100)


@given(SIDES, QUALITIES | st.none())
def test_every_face_has_one_stratum(face_px: float, quality: int | None) -> None:
    """The rule is total, and the name states the size, and the quality unless the face is large."""
    stratum = stratum_of(face_px, quality)
    assert (stratum is Stratum.LARGE, stratum.is_small) == (face_px >= 256, face_px < 128)
    known = "no" if quality is None else "low" if quality < 88 else "high"
    assert stratum is Stratum.LARGE or stratum.removeprefix("small_") == f"{known}_quality"


@given(SIDES, QUALITIES | st.none(), st.sampled_from(["image/jpeg", "image/png", "image/gif", None]))
def test_other_formats_are_known_by_their_quality(face_px: float, quality: int | None, media_type: str | None) -> None:
    """JPEG, PNG, WebP and animations have the strata of the quality alone, as bundles of older releases."""
    stratum = stratum_of(face_px, quality, media_type)
    assert stratum is stratum_of(face_px, quality)
    assert (stratum.has_copies, stratum.is_video) == (stratum is not Stratum.LARGE, False)


@pytest.mark.parametrize(
    ("face_px", "media_type", "stratum"),
    [
        (300, "image/heic", "large"),
        (200, "image/heic", "heic"),
        (100, "image/heic", "small_heic"),
        (200, "image/avif", "avif"),
        (100, "image/avif", "small_avif"),
        (200, "image/jxl", "jxl"),
        (100, "image/jxl", "small_jxl"),
        (300, "video/mp4", "video"),
        (128, "video/webm", "video"),
        (127, "video/quicktime", "small_video"),
    ],
)
def test_a_format_with_an_encoder_of_its_own_is_a_stratum(face_px: float, media_type: str, stratum: str) -> None:
    """HEIC, AVIF, JPEG XL and videos are apart; only large faces of photographs are alike in all formats."""
    found = stratum_of(face_px, None, media_type)
    assert found == stratum
    assert found.is_video == media_type.startswith("video/")
    assert not found.has_copies


def rank(face_px: float, quality: int) -> tuple[int, int]:
    """Return the size and the quality that a stratum states, in ascending order; a large face has the best quality."""
    stratum = stratum_of(face_px, quality)
    size = 2 if stratum is Stratum.LARGE else 0 if stratum.is_small else 1
    return size, 1 if stratum is Stratum.LARGE or stratum.endswith("high_quality") else 0


@given(SIDES, SIDES, QUALITIES, QUALITIES)
def test_a_larger_face_of_higher_quality_is_never_in_a_poorer_stratum(
    side: float, other_side: float, quality: int, other_quality: int
) -> None:
    """The rule is monotone in the size of the face and in the quality."""
    poorer = rank(min(side, other_side), min(quality, other_quality))
    richer = rank(max(side, other_side), max(quality, other_quality))
    assert all(low <= high for low, high in zip(poorer, richer, strict=True))


@pytest.mark.parametrize(
    ("face_px", "quality", "stratum"),
    [
        (256, 1, "large"),
        (256, None, "large"),
        (255.9, 88, "high_quality"),
        (128, 88, "high_quality"),
        (128, 87, "low_quality"),
        (128, None, "no_quality"),
        (127.9, 88, "small_high_quality"),
        (127.9, 87, "small_low_quality"),
        (127.9, None, "small_no_quality"),
    ],
)
def test_the_limits_are_those_of_the_readme(face_px: float, quality: int | None, stratum: str) -> None:
    """A face of 256 px is large, one of 128 px is not small, and a quality of 88 is not low."""
    assert stratum_of(face_px, quality) == stratum
