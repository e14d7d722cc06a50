"""Untrusted names and messages, written so that none of their characters controls a terminal.

Names of files, tenants, URIs and exceptions may contain escape sequences, direction marks or line ends.
"""

import codecs
import sys
from typing import IO

_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # surrogates of the bytes of a name that are not UTF-8


def printable(text: str) -> str:
    r"""Return `text` with an escape for each character that is not printable (`str.isprintable`), line ends included.

    The escapes are those of a shell's $'...', so that a file can be found by it: `\n`, `\x1b`, `\u202e`, and
    `\xff` for a byte that is not UTF-8. The function is idempotent.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def printable_value(value: object) -> object:
    """Return text as `printable`, any other value unchanged; the `finalize` of pages, whose markup is not `str`."""
    return printable(value) if type(value) is str else value


def printable_json(text: str, *, ascii_only: bool = False) -> str:
    """Return equivalent JSON with an escape for each character that is not printable; line ends stay.

    With `ascii_only` every character outside ASCII is escaped.
    """
    if not ascii_only and text.isprintable():
        return text
    return "".join(
        c if c == "\n" or (c.isprintable() and (c.isascii() or not ascii_only)) else _escape_json(c) for c in text
    )


def count_noun(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 image`, `2,000 images`; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def print_json(text: str, file: IO[str] | None = None) -> None:
    """Print JSON and flush; characters that the encoding of the file may lack are escaped, so that it stays JSON."""
    file = file or sys.stdout
    ascii_only = codecs.lookup(getattr(file, "encoding", None) or "utf-8").name != "utf-8"
    file.write(printable_json(text, ascii_only=ascii_only) + "\n")
    file.flush()


def _escape(character: str) -> str:
    number = ord(character)
    if _FIRST_BYTE <= number <= _LAST_BYTE:
        return f"\\x{number & 0xFF:02x}"
    if character.isascii():
        return character.encode("unicode_escape").decode()
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - the last with four digits


def _escape_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))
