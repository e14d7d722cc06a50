"""Text files that people bring: UTF-8 with or without a byte-order mark, or one sentence that says what they are."""

import codecs

from scorer.paths import UsageError

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def decode_text(data: bytes, name: str) -> str:
    """Return the text of a file, without its byte-order mark.

    Raises:
        UsageError: it is not UTF-8; the sentence says in which line, and how to mend it.
    """
    refuse_wide_text(data[:1024], name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise explain_bytes(error, f"{name}, line {line},") from None


def refuse_wide_text(head: bytes, name: str) -> None:
    """Refuse UTF-16 and UTF-32 by the first bytes of a file.

    Raises:
        UsageError: it has their byte-order mark, or NUL bytes, which no text in UTF-8 has.
    """
    encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:
        encoding = "UTF-16BE" if head.find(b"\0") % 2 == 0 else "UTF-16LE"
    if encoding:
        message = f"{name} is {encoding}, not UTF-8: save it as UTF-8 (iconv -f {encoding} -t UTF-8)"
        raise UsageError(message)


def explain_bytes(error: UnicodeDecodeError, where: str) -> UsageError:
    """Return what to say of a byte that is no UTF-8."""
    byte = error.object[error.start]
    return UsageError(
        f"{where} holds the byte 0x{byte:02X}, which is not UTF-8 (Latin-1 or Windows-1252?): save it as UTF-8 "
        "(iconv -f WINDOWS-1252 -t UTF-8)"
    )
