"""Why a request gets no result, and the HTTP status of those that do."""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus

from ingest.reasons import Reason
from scorer.messages import DeadLetterCode, ScoreResult, Status


class RefusalCode(StrEnum):
    """Why a request was refused; the same names as in the dead letters of a stream where it has one."""

    NOT_JSON = DeadLetterCode.NOT_JSON.value
    WRONG_SCHEMA = DeadLetterCode.WRONG_SCHEMA.value
    TOO_LARGE = DeadLetterCode.TOO_LARGE.value
    UNKNOWN_TENANT = DeadLetterCode.UNKNOWN_TENANT.value
    UNKNOWN_POLICY = DeadLetterCode.UNKNOWN_POLICY.value
    PAYLOAD_UNAVAILABLE = DeadLetterCode.PAYLOAD_UNAVAILABLE.value
    BAD_FORM = "bad_form"
    CANNOT_EXPLAIN = "cannot_explain"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN_HOST = "forbidden_host"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    OVERLOADED = "overloaded"
    BODY_TOO_SLOW = "body_too_slow"
    TIMED_OUT = "timed_out"
    STOPPING = "stopping"
    DEFECT = "defect"


class Refusal(Exception):
    """A request gets no result; `message` names fields and rules, never a value."""

    def __init__(
        self, status: HTTPStatus, code: RefusalCode, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def choose_status(result: ScoreResult) -> HTTPStatus:
    """Return the status of the answer to a request for one image.

    A result with a decision or without a face is 200. Otherwise the image could not be scored: 413 has too many bytes,
    415 is a kind of file that is not read, and 422 is any other reason of `reason_codes`.
    """
    if result.decision is not None or result.status in {Status.SCORED, Status.NO_FACE}:
        return HTTPStatus.OK
    if Reason.TOO_MANY_BYTES in result.reason_codes:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    if result.status is Status.UNSUPPORTED:
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return HTTPStatus.UNPROCESSABLE_ENTITY
