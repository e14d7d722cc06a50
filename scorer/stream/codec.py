"""Records to requests and results to records: JSON values, CloudEvents facts in the headers (binary mode)."""

from collections.abc import Iterable

from pydantic import ValidationError

from scorer.messages import ScoreRequest, ScoreResult
from scorer.stream.broker import Headers, Outgoing, Record

RESULT_TYPE = "unlensed.result.v1"
_SHOWN_ERRORS = 3


class InvalidRecord(Exception):
    """A record that is no request: it becomes a dead letter.

    Attributes:
        code: machine-readable, part of the dead letter's headers.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_request(record: Record, max_bytes: int) -> ScoreRequest:
    """Return the request in a record's value.

    Raises:
        InvalidRecord: null_value, too_large, not_json or wrong_schema. The message names fields and rules, never
            the values that were found: they may be pictures or secrets.
    """
    if record.value is None:
        code, message = "null_value", "the record has no value; a request is a JSON object"
        raise InvalidRecord(code, message)
    if record.size > max_bytes:
        code, message = "too_large", f"the record has {record.size} bytes; stream.max_record_bytes is {max_bytes}"
        raise InvalidRecord(code, message)
    try:
        return ScoreRequest.model_validate_json(record.value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            code, message = "not_json", problems[0]["msg"]
            raise InvalidRecord(code, message) from None
        shown = [f"{'.'.join(map(str, p['loc'])) or 'request'}: {p['msg']}" for p in problems[:_SHOWN_ERRORS]]
        more = len(problems) - len(shown)
        code, message = "wrong_schema", "; ".join(shown) + (f"; and {more} more" if more else "")
        raise InvalidRecord(code, message) from None


def encode_result(
    record: Record, result: ScoreResult, topic: str, mode: str, trace: Iterable[tuple[str, bytes]] = ()
) -> Outgoing:
    """Return the record that answers `record`; it keeps the key, so that results are partitioned as requests are."""
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
