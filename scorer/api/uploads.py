"""The body of a request -> the images to score, in memory and within limits; nothing is written to a disk."""

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from scorer.api.admission import Ticket
from scorer.api.refusals import Refusal, RefusalCode
from scorer.messages import ImageSource, ScoreRequest, describe_problems
from scorer.settings import ApiSettings
from scorer.stream.codec import InvalidRecord, parse_value

JSON, FORM = "application/json", "multipart/form-data"
FIELD = "request"  # of a form: the fields of a request without its image
_OF_ONE_IMAGE = frozenset({"request_id", "content_id", "faces", "explain"})


class _MemoryParser(MultiPartParser):
    spool_max_size = 0  # no size moves a file to a disk; the stream is limited instead


def read_media_type(request: Request) -> str:
    """Return the media type of a body that is read.

    Raises:
        Refusal: it is another one.
    """
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found not in {JSON, FORM}:
        message = f"the body is read as {FORM} with files, or {JSON} with a request"
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, RefusalCode.UNSUPPORTED_MEDIA_TYPE, message)
    return found


def read_length(request: Request, settings: ApiSettings) -> int:
    """Return the stated length of the body, 0 where none is stated.

    Raises:
        Refusal: it is over the limit.
    """
    stated = request.headers.get("content-length", "0")
    length = int(stated) if stated.isdecimal() else 0
    if length > settings.max_body_bytes:
        raise _refuse_size(settings)
    return length


async def read_requests(request: Request, media_type: str, settings: ApiSettings, ticket: Ticket) -> list[ScoreRequest]:
    """Return the requests in a body; the ticket grows with what is read.

    Raises:
        Refusal: the body is too large, too slow or not what the schema allows.
        Overloaded: there is no room for the body.
        ClientDisconnect: the client left.
    """
    body = _read_body(request, settings, ticket)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            if media_type == FORM:
                return await _read_form(request, body, settings)
            value = b"".join([chunk async for chunk in body])
    except TimeoutError:
        message = f"the body did not arrive within {settings.body_timeout_s:g} s (setting api.body_timeout_s)"
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, RefusalCode.BODY_TOO_SLOW, message) from None
    return [await asyncio.to_thread(_parse_json, value, settings)]


async def _read_body(request: Request, settings: ApiSettings, ticket: Ticket) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > settings.max_body_bytes:
            raise _refuse_size(settings)
        if size > ticket.size:  # the client did not state the length
            ticket.resize(size)
        yield chunk


def _refuse_size(settings: ApiSettings) -> Refusal:
    message = f"the body has more than {settings.max_body_bytes} bytes (setting api.max_body_bytes)"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, RefusalCode.TOO_LARGE, message)


def _parse_json(value: bytes, settings: ApiSettings) -> ScoreRequest:
    try:
        return parse_value(value, settings.max_json_bytes, "api.max_json_bytes")
    except InvalidRecord as error:
        code = RefusalCode(error.code.value)
        too_large = code is RefusalCode.TOO_LARGE
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.UNPROCESSABLE_ENTITY
        raise Refusal(status, code, str(error)) from None


async def _read_form(request: Request, body: AsyncGenerator[bytes, None], settings: ApiSettings) -> list[ScoreRequest]:
    parser = _MemoryParser(
        request.headers,
        body,
        max_files=settings.max_images_per_request,
        max_fields=1,
        max_part_size=settings.max_json_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _refuse_form(error.message) from None
    files, fields = [], dict[str, Any]()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            with value.file as file:
                files.append((value.filename, file.read()))
        elif name == FIELD:
            fields = _parse_fields(value)
        else:
            message = f"the form has a field that is not known; it takes files and one field {FIELD!r}"
            raise _refuse_form(message)
    if not files:
        message = "the form has no file; a file has a filename"
        raise _refuse_form(message)
    if len(files) > 1 and (own := sorted(_OF_ONE_IMAGE & fields.keys())):
        message = (
            f"the form has {len(files)} files, and its field {FIELD!r} names {', '.join(own)}, which is of one image"
        )
        raise _refuse_form(message)
    return [_make_request(name or f"image-{number}", data, fields) for number, (name, data) in enumerate(files, 1)]


def _parse_fields(text: str) -> dict[str, Any]:
    try:
        fields = from_json(text)
    except ValueError as error:
        message = f"the field {FIELD!r} is not JSON: {error}"
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, RefusalCode.NOT_JSON, message) from None
    if not isinstance(fields, dict) or "image" in fields:
        message = f"the field {FIELD!r} takes an object with the fields of a request but `image`, which is the file"
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, RefusalCode.WRONG_SCHEMA, message)
    return fields


def _make_request(name: str, data: bytes, fields: dict[str, Any]) -> ScoreRequest:
    """Return the request for a file; its name is the `request_id` and the `content_id` unless `fields` has others."""
    try:
        return ScoreRequest.model_validate(
            {"request_id": name, "content_id": name, **fields, "image": ImageSource(data=data)}
        )
    except ValidationError as error:
        message = describe_problems(error, FIELD)
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, RefusalCode.WRONG_SCHEMA, message) from None


def _refuse_form(message: str) -> Refusal:
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, RefusalCode.BAD_FORM, message)
