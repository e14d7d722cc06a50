"""Remove from log lines what must never be logged.

Removed are: bytes, image data in any form (base64, `data:` URLs, the repr of bytes, values that pydantic quotes), EXIF,
values of headers, passwords and other secrets by their name, and the user, the query and the fragment of URLs. A secret
in a sentence, without its name and outside a URL, cannot be detected: do not write such a sentence.
"""

import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date
from enum import Enum
from numbers import Integral, Real
from pathlib import PurePath
from uuid import UUID

MAX_CHARACTERS = 2_000
MAX_ITEMS = 50
MAX_DEPTH = 6
MAX_READ_CHARACTERS = 65_536  # longer text is cut before the search
HIDDEN = "<redacted>"

_WORDS = (
    r"passw(?:or)?d|passphrase|secret|token|authorization|credential|cookie|signature|(?:api|access|private)[_-]?key"
)
_SECRET_NAME = re.compile(rf"{_WORDS}|^(?:pwd|sig|auth|headers?|exif|gps.*|data|bytes)$", re.IGNORECASE)

_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]{1,30}):[/\\]+"
_URL = re.compile(_SCHEME + r"([^\s?#]*)([?#]\S*)?")
_ONLY_URL = re.compile(_SCHEME + r"([^?#]*)([?#].*)?", re.DOTALL)  # a value that is only a URL may contain spaces
_PATTERNS = (
    (re.compile(r"\bdata:[^\s,]{0,200},\S*"), f"data:{HIDDEN}"),
    (re.compile(r"input_value=.*"), f"input_value={HIDDEN}"),  # a ValidationError quotes the picture
    (re.compile(r"\bb'(?:\\.|[^'\\])*(?:'|\\?$)|\bb\"(?:\\.|[^\"\\])*(?:\"|\\?$)", re.DOTALL), "<bytes>"),
    (
        re.compile(r"(?<=\S)\?\S+"),
        f"?{HIDDEN}",
    ),  # a path with a query but without its host, as urllib3 writes it
    (
        re.compile(
            rf"({_WORDS})([\w-]{{0,32}}[\\\"']{{0,4}}\s{{0,4}}[:=]\s{{0,4}})"
            r"(?:'(?:\\.|[^'\\])*'?\S*|\"(?:\\.|[^\"\\])*\"?\S*|(?:(?:bearer|basic|digest)\s+)?\S+)",
            re.IGNORECASE | re.DOTALL,
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"[A-Za-z0-9+/_-]{100,}={0,2}"), "<long word>"),  # base64; a digest has 64 characters
)


def redact_text(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Return `text` without what must not be logged; the middle of a text over `max_characters` is removed."""
    text = _URL.sub(_strip_url, text[:MAX_READ_CHARACTERS])
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]} <{len(text) - 2 * half} characters> {text[-half:]}"


def _strip_url(match: re.Match[str]) -> str:
    scheme, address, rest = match.groups(default="")
    if "@" in rest:  # a user or a password contains a question mark: the start of the host is unknown
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{address.rpartition('@')[2]}{rest[:1]}{HIDDEN if rest else ''}"


def redact(value: object, depth: int = 0) -> object:
    """Return `value` redacted, as a JSON value; an object of an unknown type becomes the name of its type."""
    redacted: object
    match value:
        case None | bool():
            redacted = value
        case Enum():
            redacted = redact(value.value, depth)
        case str():
            redacted = redact_text(_ONLY_URL.sub(_strip_url, value) if _ONLY_URL.match(value) else value)
        case bytes() | bytearray() | memoryview():
            redacted = f"<{len(value)} bytes>"
        case Integral():
            redacted = int(value)
        case Real():
            redacted = number if math.isfinite(number := float(value)) else str(number)
        case PurePath() | UUID() | date():
            redacted = redact_text(str(value))
        case BaseException():
            redacted = f"{type(value).__name__}: {redact_text(str(value))}"
        case _:
            redacted = _redact_many(value, depth)
    return redacted


def _redact_many(value: object, depth: int) -> object:
    if not isinstance(value, Mapping | list | tuple | AbstractSet) or depth == MAX_DEPTH:
        return f"<{type(value).__name__}>"
    shown = list(value.items() if isinstance(value, Mapping) else value)[:MAX_ITEMS]
    more = len(value) - len(shown)
    if isinstance(value, Mapping):
        fields = {redact_text(str(name)): redact_field(str(name), item, depth + 1) for name, item in shown}
        return fields | ({"...": more} if more else {})
    return [redact(item, depth + 1) for item in shown] + ([f"... {more} more"] if more else [])


def redact_field(name: str, value: object, depth: int = 0) -> object:
    """Return `value` redacted; completely if `name` is that of a secret or of image data."""
    if _SECRET_NAME.search(name) and isinstance(value, str | bytes | Mapping | list | tuple | AbstractSet):
        return HIDDEN
    return redact(value, depth)
