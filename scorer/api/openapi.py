"""The OpenAPI document: the routes of FastAPI, with the published schemas of request and result and their examples."""

import json
from typing import Any

from scorer.api.refusals import RefusalCode
from scorer.api.uploads import FIELD, FORM, JSON
from scorer.explain.messages import ExplainedResult
from scorer.messages import result_schema
from scorer.schemas import (
    EXAMPLE_FAILED_RESULT,
    EXAMPLE_INLINE_REQUEST,
    EXAMPLE_REQUEST,
    EXAMPLE_RESULT,
    Document,
    request_schema,
)

DESCRIPTION = (
    "Flags faces that are unlike the photographs its bundle knows. The same image gets the same boxes and "
    "log-likelihoods as in every other job. `pass` does not mean that a face is a photograph."
)
_RESULT = {"$ref": "#/components/schemas/ScoreResult"}
_EXPLAINED = {"$ref": "#/components/schemas/ExplainedResult"}
_REFUSAL = {"$ref": "#/components/schemas/Refusal"}
_ONE = {"anyOf": [_RESULT, _EXPLAINED]}
_RESULTS = {
    "type": "object",
    "required": ["results"],
    "properties": {"results": {"type": "array", "items": _ONE, "description": "one for each file, in order"}},
}


def _example(model: Any) -> Document:  # noqa: ANN401 - a request or a result
    return {"value": json.loads(model.model_dump_json(by_alias=True, exclude_unset=True))}


def _answer(description: str, schema: Document, **examples: Document) -> Document:
    content = {"schema": schema} | ({"examples": examples} if examples else {})
    return {"description": description, "content": {JSON: content}}


def _refusal(description: str, code: RefusalCode, *, retry: bool = False) -> Document:
    example = {code.value: {"value": {"error": {"code": code, "message": description}}}}
    answer = _answer(description, _REFUSAL, **example)
    if retry:
        answer["headers"] = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
    return answer


_SCORED = {"anyOf": [_RESULT, _EXPLAINED, _RESULTS]}
_UNSCORED = {"anyOf": [_RESULT, _RESULTS, _REFUSAL]}
_RESPONSES: dict[str, Document] = {
    "200": _answer("The result of a JSON request, or the results of a form.", _SCORED, result=_example(EXAMPLE_RESULT)),
    "401": _refusal("The bearer token is missing or wrong.", RefusalCode.UNAUTHORIZED),
    "408": _refusal("The body did not arrive in time.", RefusalCode.BODY_TOO_SLOW),
    "413": _answer("The body, its JSON or its image has too many bytes.", _UNSCORED),
    "415": _answer("The body is of another media type, or the image is of a kind that is not read.", _UNSCORED),
    "422": _answer(
        "The request breaks a rule (a refusal), or its one image could not be scored (a result with its reasons).",
        _UNSCORED,
        failed=_example(EXAMPLE_FAILED_RESULT),
    ),
    "429": _refusal("Too many images or bytes are in flight.", RefusalCode.OVERLOADED, retry=True),
    "503": _refusal("The image cannot be read now, or the service stops.", RefusalCode.PAYLOAD_UNAVAILABLE, retry=True),
}
_BODY: Document = {
    "required": True,
    "content": {
        JSON: {
            "schema": {"$ref": "#/components/schemas/ScoreRequest"},
            "examples": {"inline": _example(EXAMPLE_INLINE_REQUEST), "uri": _example(EXAMPLE_REQUEST)},
        },
        FORM: {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "array", "items": {"type": "string", "contentMediaType": "image/*"}},
                    FIELD: {
                        "type": "string",
                        "contentMediaType": JSON,
                        "description": "Fields of a request without `image`, for all files.",
                        "examples": ['{"tenant": "forum", "policy_id": "forum"}'],
                    },
                },
            },
        },
    },
}


def complete(document: Document) -> Document:
    """Add what the route that scores takes and answers: FastAPI would remove the nulls of the examples."""
    score = document["paths"]["/v1/score"]["post"]
    score["requestBody"], score["responses"] = _BODY, _RESPONSES
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    explained = ExplainedResult.model_json_schema(mode="serialization")
    published = {"ScoreRequest": request_schema(), "ScoreResult": result_schema(), "ExplainedResult": explained}
    for name, schema in published.items():
        moved = json.loads(json.dumps(schema).replace("#/$defs/", "#/components/schemas/"))
        schemas |= moved.pop("$defs", {})
        schemas[name] = moved
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"enum": [*RefusalCode]}, "message": {"type": "string"}},
    }
    schemas["Refusal"] = {"type": "object", "required": ["error"], "properties": {"error": error}}
    return document
