"""Text files from users: UTF-8 with or without a byte-order mark; other encodings are refused by name."""

import codecs

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_HEAD_BYTES = 1024


class NotUtf8(ValueError):
    """A text is not UTF-8; the message (without the file's name) states what it is, where, and how to convert it."""


def decode_text(data: bytes) -> str:
    """Return the text of a file, without its byte-order mark.

    Raises:
        NotUtf8: it is not UTF-8.
    """
    refuse_utf16(data[:_HEAD_BYTES])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise describe_bad_byte(error, data.count(b"\n", 0, error.start) + 1) from None


def refuse_utf16(head: bytes) -> None:
    """Refuse UTF-16 and UTF-32 by the first bytes of a file.

    Raises:
        NotUtf8: it has their byte-order mark, or NUL bytes, which UTF-8 text never has.
    """
    encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:
        encoding = "UTF-16BE" if head.find(b"\0") % 2 == 0 else "UTF-16LE"
    if encoding:
        message = f"it is {encoding}, not UTF-8: save it as UTF-8 (iconv -f {encoding} -t UTF-8)"
        raise NotUtf8(message)


def describe_bad_byte(error: UnicodeDecodeError, line: int) -> NotUtf8:
    """Return the error for a byte in a line that is not UTF-8."""
    return NotUtf8(
        f"line {line} contains the byte 0x{error.object[error.start]:02X}, which is not UTF-8 "
        "(Latin-1 or Windows-1252?): save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)"
    )
