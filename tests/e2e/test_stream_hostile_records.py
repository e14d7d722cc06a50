"""Hostile records at one live worker on a real broker: each is answered once, and the worker keeps running."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from scorer.stream.broker import Outgoing
from scorer.stream.kafka.records import MAX_HEADERS
from tests.live_stream import LiveStream, open_stream
from tests.scorer.stream.kafka_peers import wait_until

ODD_NAME = b"\xff\xfe".decode("utf-8", "surrogateescape")


def ask(portrait: bytes, **fields: object) -> bytes:
    """Return the value of a good request, with other fields where they are given."""
    image = {"bytes": base64.b64encode(portrait).decode()}
    face = {"face_id": "0", "box": [180, 70, 95, 110]}
    return json.dumps({"request_id": "r", "content_id": "c", "image": image, "faces": [face], **fields}).encode()


@pytest.mark.slow
def test_no_record_stops_the_worker(portrait: bytes, tmp_path: Path) -> None:
    """Odd headers, absent header values, far boxes, large attributes, many keys and a record at the topic's limit."""
    good = ask(portrait)
    unknown = b'{"request_id":"f",' + b",".join(b'"%x":1' % n for n in range(1_000_000)) + b"}"
    hostile: dict[str, tuple[bytes, tuple[tuple[str, bytes | None], ...], str]] = {
        "odd name": (good, ((ODD_NAME, b"v"),), "scored"),
        "no value": (good, (("h", None), ("traceparent", None)), "scored"),
        "many headers": (good, (("", b""),) * (MAX_HEADERS + 1), "unreadable"),
        "far box": (ask(portrait, faces=[{"face_id": "0", "box": [0, 0, 1.7e308, 1.7e308]}]), (), "wrong_schema"),
        "attributes": (ask(portrait, attributes={"x": "y" * 2_000_000}), (), "too_large"),
        "keys": (unknown, (), "too_large"),
        "edge": (b"x" * ((64 << 20) - 120), (), "too_large"),
        "last": (good, (), "scored"),
    }
    with open_stream(tmp_path) as stream:
        topic = stream.site.stream.requests
        stream.site.produce(Outgoing(topic, key.encode(), value, more) for key, (value, more, _) in hostile.items())
        wait_until(lambda: not stream.worker.pid or len(read_all(stream)) >= len(hostile), "an answer to each")
        assert stream.worker.stop() == 0, stream.worker.read_log()[-2000:]
        answers = read_all(stream)
        verdicts = {(record.key or b"").decode(): verdict(record) for record in answers}
    assert len(answers) == len(hostile)
    assert verdicts.pop("") == "unreadable"  # its key is not read either
    assert verdicts == {key: expected for key, (_, _, expected) in hostile.items() if expected != "unreadable"}


def read_all(stream: LiveStream) -> list[Any]:
    """Return all results and dead letters."""
    topics = (stream.site.stream.results_topic, stream.site.stream.dead_letters_topic)
    return [record for topic in topics for record in stream.site.read(topic)]


def verdict(record: Any) -> str:  # noqa: ANN401 - the client has no types
    """Return a result's status or a dead letter's code."""
    headers = dict(record.headers)
    if code := headers.get("unlensed-error-code"):
        return str(code.decode())
    return str(json.loads(record.value)["status"])
