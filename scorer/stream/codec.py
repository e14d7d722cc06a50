"""Converts records to requests and results to records: JSON values, CloudEvents attributes in headers (binary mode)."""

from pydantic import ValidationError

from scorer.messages import MAX_RESULT_BYTES, DeadLetterCode, ScoreRequest, ScoreResult, describe_problems
from scorer.stream.broker import Headers, Outgoing, Record
from scorer.stream.dead_letters import find_unreadable

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\\"  # some encoders write \/ for /
RESULT_TYPE = "unlensed.result.v1"
MAX_QUOTES = 2**18  # no valid request has so many; a search through all of them takes too long
MAX_KEY_BYTES = 64 * 1024
MAX_ANSWER_BYTES = MAX_RESULT_BYTES + MAX_KEY_BYTES + 4096  # with its headers


class InvalidRecord(Exception):
    """A record that is not a valid request: it becomes a dead letter with this `code`."""

    def __init__(self, code: DeadLetterCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_request(record: Record, max_bytes: int, max_json_bytes: int) -> ScoreRequest:
    """Return the request in a record's value.

    Raises:
        InvalidRecord: unreadable, null_value, too_large, not_json or wrong_schema. The message names fields and
            rules, never the values: those may be pictures or secrets.
    """
    if reason := find_unreadable(record):
        raise InvalidRecord(DeadLetterCode.UNREADABLE, f"the record cannot be read: {reason}")
    if record.value is None:
        message = "the record has no value; a request is a JSON object"
        raise InvalidRecord(DeadLetterCode.NULL_VALUE, message)
    if record.size > max_bytes:
        message = f"the record has {record.size} bytes; stream.max_record_bytes is {max_bytes}"
        raise InvalidRecord(DeadLetterCode.TOO_LARGE, message)
    if len(record.key or b"") > MAX_KEY_BYTES:
        message = (
            f"the key has {len(record.key or b'')} bytes; a result repeats it, and at most {MAX_KEY_BYTES} are taken"
        )
        raise InvalidRecord(DeadLetterCode.TOO_LARGE, message)
    request = parse_value(record.value, max_json_bytes, "stream.max_json_bytes")
    if request.explain:
        message = "explain: a stream does not explain scores; ask `unlensed api`, or leave it out"
        raise InvalidRecord(DeadLetterCode.WRONG_SCHEMA, message)
    return request


def parse_value(value: bytes, max_json_bytes: int, setting: str) -> ScoreRequest:
    """Return the request in a JSON object; `setting` is the name of the limit in the message.

    Raises:
        InvalidRecord: too_large, not_json or wrong_schema; see `parse_request`.
    """
    if len(value) > max_json_bytes and (size := count_json_bytes(value)) > max_json_bytes:
        message = f"the JSON apart from the image's bytes has {size} bytes; {setting} is {max_json_bytes}"
        raise InvalidRecord(DeadLetterCode.TOO_LARGE, message)
    try:
        return ScoreRequest.model_validate_json(value)
    except ValidationError as error:
        no_json = error.error_count() == 1 and error.errors(include_url=False)[0]["type"] == "json_invalid"
        code = DeadLetterCode.NOT_JSON if no_json else DeadLetterCode.WRONG_SCHEMA
        raise InvalidRecord(code, describe_problems(error, "request")) from None


def count_json_bytes(value: bytes) -> int:
    """Return the bytes of JSON outside its longest base64 string; takes no more memory than the value.

    Parsed JSON can take fifty times its size in memory; a single long string does not.
    """
    if value.count(b'"') > MAX_QUOTES:
        return len(value)
    longest = slice(0, 0)
    start = 0
    while (end := value.find(b'"', start)) >= 0:
        if end - start > longest.stop - longest.start:
            longest = slice(start, end)
        start = end + 1
    # Only base64 bytes between two quotes: it is a string, since there is punctuation between strings.
    inside = not value[longest].translate(None, _BASE64)
    return len(value) - (longest.stop - longest.start) * inside


def encode_result(record: Record, result: ScoreResult, topic: str, mode: str, trace: Headers = ()) -> Outgoing:
    """Return the result record for `record`, with the same key."""
    facts = {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": str(result.result_id),
        "ce_type": RESULT_TYPE,
        "ce_source": f"unlensed/{result.model.bundle_id}",
        "unlensed-mode": mode,
    }
    headers: Headers = (*((name, value.encode()) for name, value in facts.items()), *trace)
    return Outgoing(topic, record.key, result.model_dump_json().encode(), headers)
