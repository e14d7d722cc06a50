"""Answers CloudEvents over HTTP by asking `unlensed api`; see README.md beside this file."""

import argparse
import asyncio
import json
import os
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

import uvicorn
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

RESULT_TYPE = "unlensed.result.v1"
STRUCTURED = "application/cloudevents"
TIMEOUT_S = 90
PASSED_ON = ("Content-Type", "Retry-After")


def ask(request: object) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the service's answer to a request.

    Raises:
        OSError: the service does not answer.
    """
    url = os.environ.get("UNLENSED_URL", "http://127.0.0.1:8000")
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("UNLENSED_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    asked = urllib.request.Request(f"{url}/v1/score", json.dumps(request).encode(), headers)  # noqa: S310 - the operator's
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:  # a refusal, or a result of an image that cannot be scored
        with error:
            return error.code, dict(error.headers), error.read()


def make_event(event: BaseCloudEvent, result: dict[str, Any]) -> CloudEvent:
    """Return the event that answers `event`."""
    attributes = {
        "id": result["result_id"],
        "source": f"unlensed/{result['model']['bundle_id']}",
        "type": RESULT_TYPE,
        "datacontenttype": "application/json",
    }
    if subject := event.get_subject():
        attributes["subject"] = subject
    return CloudEvent(attributes, result)


async def answer_event(request: Request) -> Response:
    """Answer one event in its own mode."""
    try:
        event = from_http_event(HTTPMessage(dict(request.headers), await request.body()))
        data = event.get_data()
        if not isinstance(data, dict):
            raise TypeError  # noqa: TRY301 - as any other event that cannot be read
    except Exception:  # noqa: BLE001 - the package raises several kinds for what a sender may write
        return Response("no CloudEvent 1.0 with a JSON object as its data", HTTPStatus.BAD_REQUEST)
    try:
        status, headers, body = await asyncio.to_thread(ask, data)
    except OSError:
        return Response("the service does not answer", HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "5"})
    answered = json.loads(body)
    if "result_id" not in answered:
        return Response(body, status, {name: headers[name] for name in PASSED_ON if name in headers})
    structured = request.headers.get("content-type", "").startswith(STRUCTURED)
    message = (to_structured_event if structured else to_binary_event)(make_event(event, answered))
    return Response(message.body, headers=message.headers)


app = Starlette(routes=[Route("/", answer_event, methods=["POST"])])


def main() -> None:
    """Listen on the loopback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, access_log=False)


if __name__ == "__main__":
    main()
