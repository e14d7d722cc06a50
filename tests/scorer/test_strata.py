"""The stratum of a face."""

from hypothesis import given
from hypothesis import strategies as st

from scorer.strata import Stratum, stratum_of

SIDES = st.floats(0, 1e5)
QUALITIES = st.none() | st.integers(1, 100)


@given(SIDES, QUALITIES)
def test_every_face_has_one_stratum(face_px: float, quality: int | None) -> None:
    """The rule is total: no size and no quality is without a stratum."""
    assert stratum_of(face_px, quality) in Stratum
