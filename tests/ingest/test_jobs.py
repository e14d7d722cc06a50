"""The messages between the sandbox and its processes."""

import io
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.jobs import receive_frame, send_frame


@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text()), st.binary(), st.integers(1, 9))
def test_frames_arrive_as_sent(header: dict[str, float | str], data: bytes, piece: int) -> None:
    """A frame is read as it was written, in pieces of any size, and a truncated one raises EOFError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, header, data)
        ours.close()
        frame = theirs.recv(1 << 20)

    def read(stream: io.BytesIO) -> tuple[dict[str, object], bytes]:
        return receive_frame(lambda buffer: stream.readinto(buffer[:piece]), 1 << 20)

    assert read(io.BytesIO(frame)) == (header, data)
    with pytest.raises(EOFError):
        read(io.BytesIO(frame[:-1]))
    with pytest.raises(ValueError, match="limit"):
        receive_frame(io.BytesIO(frame).readinto, len(frame) - 9)
