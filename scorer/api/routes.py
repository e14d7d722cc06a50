"""The routes of the HTTP service."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scorer.api.admission import Admission, Overloaded
from scorer.api.metrics import ApiMetrics
from scorer.api.openapi import DESCRIPTION, complete
from scorer.api.page import PAGE, list_page_routes
from scorer.api.refusals import Refusal, RefusalCode, choose_status
from scorer.api.scoring import CannotExplain, Defect, ScoringService, Stopping
from scorer.api.tokens import TokenFile
from scorer.api.uploads import FORM, read_length, read_media_type, read_requests
from scorer.errors import PayloadUnavailable
from scorer.explain.messages import ExplainedResult
from scorer.messages import ScoreRequest, ScoreResult, result_schema
from scorer.policies import PolicyNotFound
from scorer.schemas import request_schema
from scorer.settings import ApiSettings
from scorer.stream.health import HealthState, HealthVerdict
from scorer.transport import is_loopback
from scorer.version import VERSION

RETRY_S = 5  # after an outage of a store
_EXPECTED = (
    Refusal,
    Overloaded,
    Stopping,
    Defect,
    CannotExplain,
    PolicyNotFound,
    PayloadUnavailable,
    TimeoutError,
    HTTPException,
    ClientDisconnect,
)


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What the routes use.

    Attributes:
        bundle: what `/v1/bundle` shows.
        tokens: None if no token is asked for.
        any_host: whether clients may use any name of this machine.
    """

    scoring: ScoringService
    admission: Admission
    metrics: ApiMetrics
    state: HealthState
    settings: ApiSettings
    bundle: Mapping[str, Any]
    tokens: TokenFile | None
    any_host: bool


def create_app(parts: ApiParts, lifespan: AbstractAsyncContextManager[None]) -> FastAPI:
    """Return the application; `lifespan` is open while it runs."""
    # The pages of FastAPI's documentation load scripts of other hosts.
    app = FastAPI(docs_url=None, redoc_url=None, lifespan=lambda _: lifespan, routes=list_page_routes(PAGE))
    app.include_router(_probes(parts))
    app.include_router(_guarded(parts))
    app.add_exception_handler(Exception, lambda _, error: _refuse(parts, error))
    for kind in _EXPECTED:
        app.add_exception_handler(kind, lambda _, error: _refuse(parts, error))
    app.add_middleware(_Counted, metrics=parts.metrics)
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            made = get_openapi(title="unlensed", version=VERSION, description=DESCRIPTION, routes=app.routes)
            document.update(complete(made))
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does it
    return app


def _probes(parts: ApiParts) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health/live", summary="May this process keep running?")
    async def live() -> Response:
        return _show(parts.state.live())

    @router.get("/health/ready", summary="Can this process answer requests?")
    async def ready() -> Response:
        return _show(parts.state.ready())

    return router


def _guarded(parts: ApiParts) -> APIRouter:
    """Return the routes that need a token, if there is a file of tokens."""

    async def guard(
        request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
    ) -> None:
        if parts.tokens is not None:
            if given is None or not parts.tokens.accepts(given.credentials):
                message = "send a valid token: `Authorization: Bearer TOKEN`"
                challenge = {"WWW-Authenticate": "Bearer"}
                raise Refusal(HTTPStatus.UNAUTHORIZED, RefusalCode.UNAUTHORIZED, message, challenge)
        elif not parts.any_host and not is_loopback(request.headers.get("host", "")):
            # A page of another site, whose name its owner lets resolve to this machine, must not read results.
            message = "without tokens the service is used by a loopback address: http://127.0.0.1 or http://localhost"
            raise Refusal(HTTPStatus.FORBIDDEN, RefusalCode.FORBIDDEN_HOST, message)

    router = APIRouter(dependencies=[Depends(guard)])

    @router.post(
        "/v1/score",
        summary="Score images.",
        tags=["score"],
    )
    async def score(request: Request) -> Response:
        media_type = read_media_type(request)
        results = await _score(parts, request, media_type)
        status = choose_status(results[0]) if len(results) == 1 else HTTPStatus.OK
        texts = [result.model_dump_json() for result in results]
        text = '{"results":[' + ",".join(texts) + "]}" if media_type == FORM else texts[0]
        return Response(text, status, media_type="application/json")

    @router.get("/v1/schema", summary="The JSON Schemas of a request and its results.", tags=["score"])
    async def schema() -> dict[str, Any]:
        explained = ExplainedResult.model_json_schema(mode="serialization")
        return {"request": request_schema(), "result": result_schema(), "explained_result": explained}

    @router.get("/v1/bundle", summary="The bundle that scores.", tags=["score"])
    async def bundle() -> dict[str, Any]:
        return dict(parts.bundle)

    @router.get("/metrics", summary="Metrics for Prometheus.", tags=["health"])
    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(parts.metrics.registry), headers={"Content-Type": kind})

    return router


async def _score(parts: ApiParts, request: Request, media_type: str) -> list[ScoreResult]:
    if not parts.state.ready().ok:
        raise Stopping
    ticket = parts.admission.admit(read_length(request, parts.settings))
    tickets = [ticket]
    try:
        requests = await read_requests(request, media_type, parts.settings, ticket)
        sizes = [_held_bytes(each) for each in requests]
        ticket.resize(sizes[0])
        tickets += [parts.admission.admit(size) for size in sizes[1:]]
    except BaseException:
        for each in tickets:
            each.release()
        raise
    answers = [asyncio.wrap_future(parts.scoring.submit(*pair)) for pair in zip(requests, tickets, strict=True)]
    del requests
    async with asyncio.timeout(parts.settings.answer_timeout_s):
        return await asyncio.gather(*answers)


def _held_bytes(request: ScoreRequest) -> int:
    return len(request.image.data or b"")


def _show(verdict: HealthVerdict) -> Response:
    status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(json.dumps(asdict(verdict)), status, media_type="application/json")


def _refuse(parts: ApiParts, error: Exception) -> Response:
    refusal = _describe(error)
    parts.metrics.refusals.labels(refusal.code).inc()
    body = json.dumps({"error": {"code": refusal.code, "message": refusal.message}})
    return Response(body, refusal.status, headers=refusal.headers, media_type="application/json")


def _describe(error: Exception) -> Refusal:  # noqa: C901, PLR0911 - one line for each kind
    match error:
        case Refusal():
            return error
        case Overloaded():
            retry = {"Retry-After": str(error.retry_after_s)}
            return Refusal(HTTPStatus.TOO_MANY_REQUESTS, RefusalCode.OVERLOADED, str(error), retry)
        case PolicyNotFound():
            return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, RefusalCode(error.code.value), str(error))
        case CannotExplain():
            return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, RefusalCode.CANNOT_EXPLAIN, str(error))
        case PayloadUnavailable():
            return _unavailable(RefusalCode.PAYLOAD_UNAVAILABLE, str(error))
        case TimeoutError():
            return _unavailable(
                RefusalCode.TIMED_OUT, "the engine did not answer in time (setting api.answer_timeout_s)"
            )
        case Stopping():
            return _unavailable(RefusalCode.STOPPING, "the service stops or its engine does not answer")
        case HTTPException(status_code=HTTPStatus.METHOD_NOT_ALLOWED):
            allowed = error.headers or {}
            message = "the route has other methods; see /openapi.json"
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, RefusalCode.METHOD_NOT_ALLOWED, message, allowed)
        case HTTPException():
            return Refusal(HTTPStatus.NOT_FOUND, RefusalCode.NOT_FOUND, "no such route; see /openapi.json")
        case ClientDisconnect():  # nobody reads the answer
            return Refusal(HTTPStatus.BAD_REQUEST, RefusalCode.BODY_TOO_SLOW, "the client closed the connection")
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, RefusalCode.DEFECT, "a defect; please report it")


def _unavailable(code: RefusalCode, message: str) -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, code, message, {"Retry-After": str(RETRY_S)})


class _Counted:
    """Counts answers, and keeps browsers and proxies from storing or guessing them."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(int(message["status"]))).inc()
                message["headers"] = [
                    *message["headers"],
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self._app(scope, receive, count)
