"""Names and messages of strangers, written so that none of their characters acts on a terminal.

Names of files, tenants, URIs and exceptions may hold escape sequences, direction marks or line ends.
"""

import codecs
import sys
from typing import IO

_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # how Python reads the bytes of a name that are no UTF-8


def printable(text: str) -> str:
    r"""Return `text` with an escape for each character that is not printed (`str.isprintable`), line ends included.

    The escapes are those of a shell's $'...', so that a file can be found by what is shown: `\n`, `\x1b`, `\u202e`, and
    `\xff` for a byte that is no UTF-8. Applying it twice changes nothing.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def printable_value(value: object) -> object:
    """Return text as `printable`, anything else as it is; a page's `finalize`, whose own markup is not text here."""
    return printable(value) if type(value) is str else value


def printable_json(text: str, *, ascii_only: bool = False) -> str:
    """Return JSON that means the same, with an escape for each character that is not printed; line ends stay.

    With `ascii_only` every character beyond ASCII is an escape.
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
    """Print JSON at once, whatever the terminal's encoding: what it may lack is escaped, so that it stays JSON."""
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
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - the last of four digits


def _escape_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))
