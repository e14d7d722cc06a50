"""Text files that people bring: UTF-8 with or without a byte-order mark, or one sentence that says what they are."""

import codecs

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_HEAD_BYTES = 1024


class OtherEncoding(ValueError):
    """A text is not UTF-8; the sentence, which begins in the middle, says what it is, where, and how to mend it."""


def decode_text(data: bytes) -> str:
    """Return the text of a file, without its byte-order mark.

    Raises:
        OtherEncoding: it is not UTF-8.
    """
    refuse_wide_text(data[:_HEAD_BYTES])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise explain_byte(error, data.count(b"\n", 0, error.start) + 1) from None


def refuse_wide_text(head: bytes) -> None:
    """Refuse UTF-16 and UTF-32 by the first bytes of a file.

    Raises:
        OtherEncoding: it has their byte-order mark, or NUL bytes, which no text in UTF-8 has.
    """
    encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:
        encoding = "UTF-16BE" if head.find(b"\0") % 2 == 0 else "UTF-16LE"
    if encoding:
        message = f"it is {encoding}, not UTF-8: save it as UTF-8 (iconv -f {encoding} -t UTF-8)"
        raise OtherEncoding(message)


def explain_byte(error: UnicodeDecodeError, line: int) -> OtherEncoding:
    """Return what to say of a byte in a line that is no UTF-8."""
    return OtherEncoding(
        f"line {line} holds the byte 0x{error.object[error.start]:02X}, which is not UTF-8 (Latin-1 or Windows-1252?): "
        "save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)"
    )
