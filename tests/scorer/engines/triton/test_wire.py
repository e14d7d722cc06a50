"""A reason survives the trip through a server that knows status and text only."""

from hypothesis import given
from hypothesis import strategies as st

from ingest.reasons import Reason, Unscorable
from scorer.engines.triton.wire import read_failure, write_failure


@given(reason=st.sampled_from(Reason), detail=st.text(), prefix=st.text(alphabet="abc :[]'"))
def test_a_reason_is_read_back(reason: Reason, detail: str, prefix: str) -> None:
    """Reason and detail are read back unchanged, with any text of the server before them."""
    failure = read_failure(prefix + write_failure(Unscorable(reason, detail)))
    assert failure
    assert (failure.reason, failure.detail) == (reason, detail)


@given(text=st.text())
def test_other_text_is_no_reason(text: str) -> None:
    """What does not name a reason of ours is none, so that it counts as an outage."""
    assert read_failure(text) is None
    assert read_failure(f"unscorable[made_up] {text}") is None
