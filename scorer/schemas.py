"""The published schemas: JSON Schemas of request and result, and an AsyncAPI document of the three topics.

They are generated from the message types, the headers that the service writes and the defaults of the settings.
`unlensed schema --write deploy/schemas` writes the files that are checked in.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ingest.reasons import Reason
from scorer.messages import (
    CalibratedBy,
    DeadLetterCode,
    Decision,
    FaceResult,
    ImageFacts,
    ImageSource,
    ModelFacts,
    PolicyFacts,
    RequestedFace,
    ScoreRequest,
    ScoreResult,
    Status,
    result_schema,
)
from scorer.result_ids import result_id
from scorer.settings import StreamSettings
from scorer.strata import Stratum

Document = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
KAFKA_BINDING = {"bindingVersion": "0.5.0"}

# Headers are UTF-8 text; these are all that the service reads or writes.
TRACE_HEADERS = {
    "traceparent": "W3C Trace Context; copied from the request to its answer.",
    "tracestate": "Vendor-specific trace data, beside `traceparent`.",
}
RESULT_HEADERS = {
    "content-type": "application/json",
    "ce_specversion": "CloudEvents 1.0 in binary mode.",
    "ce_id": "The `result_id`; a repeated delivery has the same one.",
    "ce_type": "unlensed.result.v1",
    "ce_source": "`unlensed/` and the bundle's id.",
    "unlensed-mode": "`live`, or `shadow` for a bundle that is only being observed.",
}
DEAD_LETTER_HEADERS = {
    "unlensed-error-code": f"Why there is no result, for machines: {', '.join(DeadLetterCode)}.",
    "unlensed-error-message": "Why there is no result, for people; never the content of the record.",
    "unlensed-topic": "The topic of the record.",
    "unlensed-partition": "Its partition.",
    "unlensed-offset": "Its offset.",
    "unlensed-timestamp-ms": "Its timestamp in milliseconds since 1970.",
    "unlensed-attempts": "The number of attempts, including crashes of workers.",
    "unlensed-bundle": "The digest of the bundle of the worker.",
}
LEFT_OUT_HEADERS = {
    "unlensed-left-out": "Only if the dead letter was too large for its topic: the parts of the record that it lacks.",
    "unlensed-value-bytes": "Only with `unlensed-left-out`: the size of the record's value.",
    "unlensed-value-sha256": "Only with `unlensed-left-out`: the SHA-256 digest of the record's value.",
}
UNREADABLE_HEADER = {
    "unlensed-unreadable": "Only if the client could not parse the record: only its partition and offset are known.",
}

EXAMPLE_REQUEST = ScoreRequest(
    request_id="2f1c6f0e-8d0b-4a53-9d43-5f0f7b1f6f1a",
    content_id="post-81723",
    image=ImageSource(uri="s3://uploads/81723.jpg", sha256="9f86d081884c7d659a2feaa0c55ad015" * 2),
    faces=(RequestedFace(face_id="0", box=(411, 180, 208, 251)),),
    tenant="forum",
    stream="avatars",
    submitted_at="2026-01-15T09:30:00Z",  # type: ignore[arg-type]  # parsed, as on the wire
    attributes={"queue": "new-accounts"},
)
EXAMPLE_INLINE_REQUEST = ScoreRequest.model_validate_json(
    '{"request_id": "r-1", "content_id": "c-1", "image": {"bytes": "/9j/4AAQSkZJRgABAQAAAQABAAD/2Q=="}}'
)
_DIGEST = "c0ffee" * 10 + "c0ff"
_POLICY = PolicyFacts(
    policy_id="forum", version="1", flag_false_alarm_rate=0.01, review_false_alarm_rate=0.05, min_face_px=64
)
_FACTS: Document = {
    "result_id": result_id(EXAMPLE_REQUEST, EXAMPLE_REQUEST.image.sha256, _DIGEST, _POLICY),
    "request_id": EXAMPLE_REQUEST.request_id,
    "content_id": EXAMPLE_REQUEST.content_id,
    "model": ModelFacts(bundle_id="starter", bundle_digest=_DIGEST),
    "policy": _POLICY,
    "submitted_at": EXAMPLE_REQUEST.submitted_at,
    "scored_at": "2026-01-15T09:30:01Z",
    "attributes": EXAMPLE_REQUEST.attributes,
    "tenant": EXAMPLE_REQUEST.tenant,
}
EXAMPLE_RESULT = ScoreResult(
    version="0.1.0",
    status=Status.SCORED,
    decision=Decision.FLAG,
    reason_codes=(),
    detail=None,
    score=0.996,
    face_count=1,
    image=ImageFacts(
        sha256=EXAMPLE_REQUEST.image.sha256,
        width=1280,
        height=960,
        media_type="image/jpeg",
        jpeg_quality=92,
        resampled=(),
    ),
    faces=(
        FaceResult(
            face_id="0",
            box=(411, 180, 208, 251),
            detector_confidence=None,
            log_likelihood=-812.4,
            p_value=0.004,
            score=0.996,
            decision=Decision.FLAG,
            reason_codes=(),
            quality={"face_px": 208.0, "high_band": 0.21},
            stratum=Stratum.HIGH_QUALITY,
            calibrated_by=CalibratedBy.STRATUM,
        ),
    ),
    timing_ms={"locate": 1.2, "embed_batch": 9.8},
    **_FACTS,
)
EXAMPLE_FAILED_RESULT = ScoreResult(
    version="0.1.0",
    status=Status.FAILED,
    decision=None,
    reason_codes=(Reason.TRUNCATED,),
    detail="the JPEG ends in the middle of a scan",
    score=None,
    face_count=0,
    image=ImageFacts(),
    faces=(),
    timing_ms={"locate": 0.3},
    **_FACTS,
)


def request_schema() -> Document:
    """Return the JSON Schema (2020-12) of a request."""
    schema = ScoreRequest.model_json_schema(mode="validation")
    _state_one_source(schema["$defs"])
    return schema


def _state_one_source(types: Document) -> None:
    """Add the check of `ImageSource` that pydantic cannot express in JSON Schema."""
    types["ImageSource"]["oneOf"] = [
        {"required": [name], "properties": {name: {"type": "string"}}} for name in ("uri", "bytes")
    ]


def asyncapi() -> Document:
    """Return the AsyncAPI 3.0 document; topics and group are the defaults of `StreamSettings`."""
    settings = StreamSettings()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "unlensed",
            "version": f"{EXAMPLE_RESULT.schema_version}.0.0",
            "description": (
                "Flags faces that are unlike the photographs its bundle knows. Every record of the request topic gets "
                "exactly one answer: a result or a dead letter. A delivery may be repeated (unless the service runs "
                "exactly-once and is read with read_committed); a repeated result has the same `result_id`. A service "
                "in shadow mode reads the same requests in its own consumer group and answers to topics whose names "
                "end in `.shadow`."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {
            "requests": _channel(settings.requests, "scoreRequest", "Images to score, one a record."),
            "results": _channel(
                settings.results_topic, "scoreResult", "One record for each valid request, with any outcome."
            ),
            "deadLetters": _channel(
                settings.dead_letters_topic,
                "deadLetter",
                "Records that have no result: they are invalid or crash the worker.",
            ),
        },
        "operations": {
            "receiveRequests": _operation("receive", "requests", "scoreRequest", "Read images to score.")
            | {"bindings": {"kafka": {"groupId": {"type": "string", "default": settings.group_id}} | KAFKA_BINDING}},
            "sendResults": _operation("send", "results", "scoreResult", "Answer a request."),
            "sendDeadLetters": _operation("send", "deadLetters", "deadLetter", "Store a record without a result."),
        },
        "components": {"messages": _messages(), "schemas": _types()},
    }


def _channel(address: str, message: str, description: str) -> Document:
    return {
        "address": address,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {"kafka": {"topic": address} | KAFKA_BINDING},
    }


def _operation(action: str, channel: str, message: str, summary: str) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


def _messages() -> Document:
    dead = dict.fromkeys(DEAD_LETTER_HEADERS, "") | {
        "unlensed-error-code": DeadLetterCode.NOT_JSON,
        "unlensed-error-message": "Invalid JSON: expected value at line 1 column 1",
        "unlensed-topic": StreamSettings().requests,
        "unlensed-partition": "3",
        "unlensed-offset": "1048576",
        "unlensed-timestamp-ms": "1768469400000",
        "unlensed-attempts": "1",
        "unlensed-bundle": EXAMPLE_RESULT.model.bundle_digest,
    }
    answer = {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": str(EXAMPLE_RESULT.result_id),
        "ce_type": "unlensed.result.v1",
        "ce_source": f"unlensed/{EXAMPLE_RESULT.model.bundle_id}",
        "unlensed-mode": "live",
    }
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    wire: Document = {"mode": "json", "by_alias": True, "exclude_unset": True}
    return {
        "scoreRequest": {
            "summary": "One image, as bytes or as a claim check, with or without its faces.",
            "contentType": "application/json",
            "headers": _headers(TRACE_HEADERS),
            "payload": _type("ScoreRequest"),
            "bindings": _key("Any key; records of one key keep their order, and answers keep the key."),
            "examples": [
                {"name": "claim check", "headers": trace, "payload": EXAMPLE_REQUEST.model_dump(**wire)},
                {"name": "inline", "headers": {}, "payload": EXAMPLE_INLINE_REQUEST.model_dump(**wire)},
            ],
        },
        "scoreResult": {
            "summary": "How unlike the known photographs each face is, or why the image was not scored.",
            "contentType": "application/json",
            "headers": _headers(RESULT_HEADERS, TRACE_HEADERS),
            "payload": _type("ScoreResult"),
            "bindings": _key("The request's key."),
            "examples": [
                {"name": "flagged", "headers": answer | trace, "payload": EXAMPLE_RESULT.model_dump(mode="json")},
                {"name": "failed", "headers": answer, "payload": EXAMPLE_FAILED_RESULT.model_dump(mode="json")},
            ],
        },
        "deadLetter": {
            "summary": "The record as it was read; headers after its own ones state why it has no result.",
            "contentType": "application/octet-stream",
            "headers": _headers(DEAD_LETTER_HEADERS, UNREADABLE_HEADER | LEFT_OUT_HEADERS),
            "payload": {"description": "The record's value, verbatim: any bytes, or none."},
            "bindings": _key("The record's key, verbatim."),
            "examples": [{"name": "not JSON", "headers": dead, "payload": "not JSON"}],
        },
    }


def _headers(required: dict[str, str], optional: dict[str, str] | None = None) -> Document:
    texts = required | (optional or {})
    schema: Document = {
        "type": "object",
        "properties": {name: {"type": "string", "description": text} for name, text in texts.items()},
    }
    return schema if required is TRACE_HEADERS else schema | {"required": list(required)}


def _key(description: str) -> Document:
    return {"kafka": {"key": {"type": "string", "description": description}} | KAFKA_BINDING}


def _type(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _types() -> Document:
    """Return the payloads' schemas, which are the files beside this document."""
    files = {"ScoreRequest": "request", "ScoreResult": "result"}
    return {
        name: {"schemaFormat": SCHEMA_FORMAT, "schema": {"$ref": DOCUMENTS[file][0]}} for name, file in files.items()
    }


DOCUMENTS: dict[str, tuple[str, Callable[[], Document]]] = {
    "result": ("result.schema.json", lambda: {"$schema": DIALECT} | result_schema()),
    "request": ("request.schema.json", lambda: {"$schema": DIALECT} | request_schema()),
    "asyncapi": ("asyncapi.json", asyncapi),
}


def document_text(name: str) -> str:
    """Return the published text of one of `DOCUMENTS`."""
    return json.dumps(DOCUMENTS[name][1](), indent=1) + "\n"


def write_documents(folder: Path) -> None:
    """Write all of `DOCUMENTS` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (file, _) in DOCUMENTS.items():
        (folder / file).write_text(document_text(name), encoding="utf-8")
