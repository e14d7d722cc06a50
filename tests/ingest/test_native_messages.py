"""Collecting what C code prints to standard error."""

import ctypes

import pytest

from ingest.native_messages import NativeMessages

LIBC = ctypes.CDLL(None)


def test_lines_of_c_code_are_collected(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines that C code prints in a block are in the list, and not on the terminal."""
    messages = NativeMessages()
    for word in (b"one", b"two"):
        with messages.collect() as lines:
            LIBC.perror(word)
            assert not lines
        assert len(lines) == 1
        assert lines[0].startswith(word.decode())
    assert not capfd.readouterr().err


def test_the_stream_is_restored(capfd: pytest.CaptureFixture[str]) -> None:
    """After a block, also after one that raised, C code prints to the terminal again."""
    messages = NativeMessages()
    with pytest.raises(ZeroDivisionError), messages.collect():
        raise ZeroDivisionError
    LIBC.perror(b"afterwards")
    assert "afterwards" in capfd.readouterr().err
