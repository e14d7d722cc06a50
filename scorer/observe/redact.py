"""What must never stand in a log line, and what stands there instead.

Out go: bytes, image data in any coat (base64, `data:` URLs, the repr of bytes, values that pydantic quotes), EXIF,
headers' values, passwords and their kin by name, and of URLs the user, the query and the fragment. A secret in prose,
without a name beside it or a URL around it, cannot be known for one: do not write such prose.
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
MAX_READ_CHARACTERS = 65_536  # what is longer is cut before it is searched
HIDDEN = "<redacted>"

_WORDS = (
    r"passw(?:or)?d|passphrase|secret|token|authorization|credential|cookie|signature|(?:api|access|private)[_-]?key"
)
_SECRET_NAME = re.compile(rf"{_WORDS}|^(?:pwd|sig|auth|headers?|exif|gps.*|data|bytes)$", re.IGNORECASE)

_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]{1,30}):[/\\]+"
_URL = re.compile(_SCHEME + r"([^\s?#]*)([?#]\S*)?")
_ONLY_URL = re.compile(_SCHEME + r"([^?#]*)([?#].*)?", re.DOTALL)  # what is no prose may hold spaces, too
_PATTERNS = (
    (re.compile(r"\bdata:[^\s,]{0,200},\S*"), f"data:{HIDDEN}"),
    (re.compile(r"input_value=.*"), f"input_value={HIDDEN}"),  # a ValidationError quotes the picture
    (re.compile(r"\bb'(?:\\.|[^'\\])*(?:'|\\?$)|\bb\"(?:\\.|[^\"\\])*(?:\"|\\?$)", re.DOTALL), "<bytes>"),
    (
        re.compile(r"(?<=\S)\?\S+"),
        f"?{HIDDEN}",
    ),  # a path with a query whose host stands elsewhere, as urllib3 writes it
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
    """Return `text` without what must not be logged, its middle left out if it is longer than `max_characters`."""
    text = _URL.sub(_bare_url, text[:MAX_READ_CHARACTERS])
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]} <{len(text) - 2 * half} characters> {text[-half:]}"


def _bare_url(match: re.Match[str]) -> str:
    scheme, place, rest = match.groups(default="")
    if "@" in rest:  # a user or a password with a question mark: nobody knows where the host begins
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{place.rpartition('@')[2]}{rest[:1]}{HIDDEN if rest else ''}"


def redact(value: object, depth: int = 0) -> object:
    """Return `value` as JSON can say it, redacted; an object of a type unknown here shows as its type's name."""
    said: object
    match value:
        case None | bool():
            said = value
        case Enum():
            said = redact(value.value, depth)
        case str():
            said = redact_text(_ONLY_URL.sub(_bare_url, value) if _ONLY_URL.match(value) else value)
        case bytes() | bytearray() | memoryview():
            said = f"<{len(value)} bytes>"
        case Integral():
            said = int(value)
        case Real():
            said = number if math.isfinite(number := float(value)) else str(number)
        case PurePath() | UUID() | date():
            said = redact_text(str(value))
        case BaseException():
            said = f"{type(value).__name__}: {redact_text(str(value))}"
        case _:
            said = _redact_many(value, depth)
    return said


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
    """Return `value` redacted; wholly when `name` says that it is a secret or part of a picture."""
    if _SECRET_NAME.search(name) and isinstance(value, str | bytes | Mapping | list | tuple | AbstractSet):
        return HIDDEN
    return redact(value, depth)
