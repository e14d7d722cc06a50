"""What must not be logged is never logged, in any form."""

import base64
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from scorer.messages import Decision, ScoreRequest
from scorer.observe.logs import JsonLines, PlainLines
from scorer.observe.redact import MAX_CHARACTERS, MAX_ITEMS, redact, redact_text
from scorer.stream.broker import Record, TopicPartition

MARK = "zQ7"  # each piece of a secret bears it, so that a part that leaks is seen, too
PIECES = st.text("abXY01", max_size=6).map(lambda text: MARK + text)
SECRETS = st.lists(
    st.tuples(PIECES, st.sampled_from([*"?#@/&='\"\\:;,<>|^`{}()[]%+-.~*$!", "://", "b'", "=="])),
    min_size=1,
    max_size=5,
).map(lambda parts: "".join(piece + mark for piece, mark in parts))
SPACED = st.lists(SECRETS, min_size=1, max_size=3).map(" ".join)


@dataclass
class Holder:
    """An object whose repr tells everything."""

    inside: str


def lines_of(event: str, *arguments: object, raised: BaseException | None = None, **fields: object) -> str:
    """Return what both formatters write of a log record."""
    attributes: dict[str, object] = {"name": "x", "levelno": 30, "levelname": "WARNING", "msg": event}
    attributes |= {"args": arguments, "fields": fields}
    attributes |= {"exc_info": (type(raised), raised, raised.__traceback__) if raised else None}
    record = logging.makeLogRecord(attributes)
    return f"{JsonLines().format(record)}\n{PlainLines().format(record)}"


@given(SECRETS)
def test_a_url_keeps_no_user_query_or_fragment(secret: str) -> None:
    """In a field, in prose, in an exception, in a library's argument, as a name, and without its host."""
    for url in (
        f"https://host/p?sig={secret}",
        f"https://user:{secret}@host/p",
        f"s3://{secret}@bucket/key?x=1",
        f"https://host/p#{secret}",
        f"file:///p?{secret}",
    ):
        text = f"cannot read '{url}' now"
        error = ValueError(text)
        error.add_note(text)
        error.__cause__ = RuntimeError(text)
        fields: dict[str, object] = {"uri": url, "many": [{url: (url, {"deep": url})}], "error": error}
        assert MARK not in lines_of("of %s", url, raised=error, path=Path(url), text=text, **fields)
    assert MARK not in lines_of(f"Max retries exceeded with url: /p?{secret} (Caused by x)")
    assert MARK not in lines_of(f"data:image/png;base64,{secret}")


@given(SPACED)
def test_a_field_that_is_a_url_may_hold_spaces(secret: str) -> None:
    """A uri from a request need not be well formed to be kept secret."""
    for url in (f"https://host/p?sig={secret}", f"https://user:{secret}@host/p", f"https://host/p#{secret}"):
        assert MARK not in lines_of("x", uri=url)


@given(SPACED)
def test_secrets_by_name_are_hidden(secret: str) -> None:
    """A field, or an entry of a dictionary at any depth, with the name of a secret."""
    nested = {"a": [{"sasl_password": secret, "x": {"Authorization": [secret], "API-Key": secret}}]}
    headers = {"x-forwarded": secret}
    exif = {"GPSLatitude": secret, "Make": secret}
    fields: dict[str, object] = {"token": secret, "headers": headers, "exif": exif, "access_key": secret}
    assert MARK not in lines_of("x", nested=nested, secret=SecretStr(secret), **fields)


@given(SECRETS)
def test_secrets_in_prose_are_hidden_after_their_name(secret: str) -> None:
    """`password=...`, a header as text, JSON as text, a dictionary's repr."""
    for text in (
        f"password={secret}",
        f"Authorization: Bearer {secret}",
        f"sasl.jaas.config password = {secret} and more",
        json.dumps({"token": secret}),
        str({"client_secret": secret, "user": "u"}),
    ):
        assert MARK not in lines_of(text, raised=RuntimeError(text))


@given(st.binary(max_size=64).map(lambda tail: MARK.encode() + tail), SECRETS)
def test_bytes_are_counted_not_shown(data: bytes, secret: str) -> None:
    """Bytes as a value, in a record, in an array, in a repr, in an exception, in an object."""
    record = Record("t", 0, 0, 0, data, data, (("name", data),))
    many = [data, bytearray(data), memoryview(data), record, np.frombuffer(data, np.uint8), Holder(secret), {data: 1}]
    error = ValueError(data)
    shown = lines_of(f"got {data!r} from %r", {"x": data}, raised=error, many=many, value=data, reason=error)
    assert MARK not in shown
    assert f"<{len(data)} bytes>" in shown


@given(st.binary(min_size=100, max_size=400), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode, bytes.hex]))
def test_encoded_images_are_left_out(image: bytes, encode: Callable[[bytes], bytes | str]) -> None:
    """Base64 or hexadecimal of an image in prose shows no 100 characters in a row."""
    coded = encode(image)
    text = coded if isinstance(coded, str) else coded.decode()
    shown = lines_of(f"the value {text} is bad", value=text, raised=ValueError(text))
    assert not any(text[start : start + 24] in shown for start in range(0, len(text) - 24, 24))


def test_a_validation_error_does_not_quote_the_picture() -> None:
    """Pydantic's message repeats what it was given; the log does not."""
    with pytest.raises(ValidationError) as raised:
        ScoreRequest.model_validate({"request_id": 5, "content_id": MARK, "image": {"bytes": MARK, "uri": MARK}})
    assert MARK in str(raised.value)
    assert MARK not in lines_of("x", raised=raised.value, reason=raised.value)


def test_what_is_useful_stays() -> None:
    """Paths, hosts, numbers, digests, enumerations and partitions are written as they are."""
    digest = "9f86d081884c7d659a2feaa0c55ad015" * 2
    assert redact("https://host:8443/a/b.jpg") == "https://host:8443/a/b.jpg"
    assert redact_text("s3://bucket/key?versionId=1 is gone") == "s3://bucket/key?<redacted> is gone"
    assert redact(f"sha256 {digest} differs, is that so?") == f"sha256 {digest} differs, is that so?"
    assert redact(
        {"n": np.int64(3), "x": float("nan"), "d": Decision.FLAG, "at": TopicPartition("t", 1), "p": Path("/a")}
    ) == {
        "n": 3,
        "x": "nan",
        "d": "flag",
        "at": ["t", 1],
        "p": "/a",
    }


def test_long_values_are_cut() -> None:
    """A long text loses its middle, a long list its end, a deep one its depths."""
    assert len(redact_text("word " * 100_000)) < MAX_CHARACTERS + 50
    assert redact(list(range(1000))) == [*range(MAX_ITEMS), f"... {1000 - MAX_ITEMS} more"]
    deep: object = "x"
    for _ in range(100):
        deep = [deep]
    assert "<list>" in json.dumps(redact(deep))


@pytest.mark.parametrize(
    "unit", ["?", "a?b=", "token", "b'", 'b"\\', "://", "a://", "A", "password='", "data:", "@", "?#@", '=\\"']
)
def test_nobody_slows_the_log_with_a_text(unit: str) -> None:
    """Four times as much hostile text takes four times as long, not sixteen times."""

    def cost(times: int) -> float:
        text = (unit * times)[:60_000]
        return min(_seconds(text) for _ in range(3))

    small, large = cost(10_000 // len(unit)), cost(40_000 // len(unit))
    assert large < 12 * small + 0.05


def _seconds(text: str) -> float:
    begin = time.thread_time()  # what else the machine does is not this text's cost
    redact_text(text)
    return time.thread_time() - begin
