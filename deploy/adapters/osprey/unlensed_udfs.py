"""Functions for Osprey's rules that ask `unlensed api`; see README.md beside this file."""

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from osprey.engine.executor.execution_context import ExecutionContext, ExternalServiceException
from osprey.engine.language_types.post_execution_convertible import PostExecutionConvertible
from osprey.engine.udf.arguments import ArgumentsBase
from osprey.engine.udf.base import UDFBase
from osprey.worker.adaptor.plugin_manager import hookimpl_osprey

TIMEOUT_S = 90


@dataclass(frozen=True)
class ImageResult(PostExecutionConvertible[str]):
    """The service's result of an image; a rule compares it, and a feature stores it, as its decision.

    `p_value` is that of the least typical face and `score` is 1 minus it; None where no face was scored.
    """

    decision: str
    p_value: float | None
    score: float | None

    def to_post_execution_value(self) -> str:
        """Return the value of the feature."""
        return self.decision


class ImageArguments(ArgumentsBase):
    """The image to ask about."""

    url: str
    """Its address, which the service reads."""


class ResultArguments(ArgumentsBase):
    """A result to read."""

    result: ImageResult
    """What `UnlensedImage` answered."""


class UnlensedImage(UDFBase[ImageArguments, ImageResult]):
    """Asks the service about an image: pass, review, flag, no_face or not_scored.

    flag means: unlike the photographs the service's bundle knows. It is no proof that a face is generated.
    """

    category = "unlensed"
    execute_async = True  # it waits for the service

    def execute(self, execution_context: ExecutionContext, arguments: ImageArguments) -> ImageResult:
        """Return the service's result.

        Raises:
            ExternalServiceException: the service refuses, does not answer, or may not read the image.
        """
        result = ask(str(execution_context.get_action_id()), arguments.url)
        if "forbidden_uri" in result["reason_codes"]:
            message = f"unlensed may not read the image: {result['detail']}"
            raise ExternalServiceException(message)
        return read_result(result)


class UnlensedPValue(UDFBase[ResultArguments, float | None]):
    """The p-value of the least typical face; None where no face was scored."""

    category = "unlensed"

    def execute(self, execution_context: ExecutionContext, arguments: ResultArguments) -> float | None:
        """Return the p-value."""
        del execution_context
        return arguments.result.p_value


class UnlensedScore(UDFBase[ResultArguments, float | None]):
    """1 minus the p-value of the least typical face; None where no face was scored."""

    category = "unlensed"

    def execute(self, execution_context: ExecutionContext, arguments: ResultArguments) -> float | None:
        """Return the score."""
        del execution_context
        return arguments.result.score


@hookimpl_osprey
def register_udfs() -> list[type[UDFBase[Any, Any]]]:
    """Return the functions for rules."""
    return [UnlensedImage, UnlensedPValue, UnlensedScore]


def ask(request_id: str, uri: str) -> dict[str, Any]:
    """Return the service's result of an image.

    Raises:
        ExternalServiceException: the service refuses or does not answer.
    """
    url = os.environ.get("UNLENSED_URL", "http://127.0.0.1:8000")
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("UNLENSED_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = {"request_id": request_id, "content_id": request_id, "image": {"uri": uri}}
    asked = urllib.request.Request(f"{url}/v1/score", json.dumps(request).encode(), headers)  # noqa: S310 - the operator's
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310
            result: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:  # a refusal, or a result of an image that cannot be scored
        with error:
            result = json.load(error)
        if "result_id" not in result:
            message = f"unlensed refused: {result['error']['message']}"
            raise ExternalServiceException(message) from error
    except OSError as error:
        message = f"unlensed does not answer at {url}: {error}"
        raise ExternalServiceException(message) from error
    return result


def read_result(result: dict[str, Any]) -> ImageResult:
    """Return what rules read of a result."""
    values = [face["p_value"] for face in result["faces"] if face["p_value"] is not None]
    unscored = "no_face" if result["status"] == "no_face" else "not_scored"
    return ImageResult(result["decision"] or unscored, min(values, default=None), result["score"])
