"""A classifier of the package threatexchange that asks `unlensed api`; see README.md beside this file."""

import base64
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threatexchange.classifier.classifier import ClassificationInfo, ClassificationResult, Classifier
from threatexchange.content_type.content_base import ContentType
from threatexchange.content_type.photo import PhotoContent

TIMEOUT_S = 90


@dataclass
class FaceInfo(ClassificationInfo):
    """A label of an image; `p_value` is that of its least typical face, None where no face was scored."""

    p_value: float | None = None

    def weight_str(self) -> str:
        """Return the p-value for people."""
        return "" if self.p_value is None else f"p={self.p_value:.3g}"


class UnlensedClassifier(Classifier):
    """Labels pictures whose faces are unlike the photographs that the service's bundle knows."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url, self._token = url, token

    @classmethod
    def get_with_default_settings(cls) -> "UnlensedClassifier":
        """Return a classifier with the address and the token of the environment."""
        return cls(os.environ.get("UNLENSED_URL", "http://127.0.0.1:8000"), os.environ.get("UNLENSED_TOKEN"))

    @classmethod
    def get_content_types(cls) -> list[type[ContentType]]:
        """Return the kinds of content that are classified."""
        return [PhotoContent]

    def classify(self, content_type: type[ContentType], content_val: str) -> ClassificationResult[FaceInfo]:
        """Return the labels of the picture at the path `content_val`.

        Raises:
            ValueError: it is no picture.
            OSError: the file cannot be read, or the service refuses or does not answer.
        """
        if content_type is not PhotoContent:
            message = f"{content_type.get_name()} is not classified; give a photo"
            raise ValueError(message)
        path = Path(content_val)
        return label_result(self._ask(path.name, path.read_bytes()))

    def _ask(self, name: str, data: bytes) -> dict[str, Any]:
        request = {"request_id": name, "content_id": name, "image": {"bytes": base64.b64encode(data).decode()}}
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        asked = urllib.request.Request(f"{self._url}/v1/score", json.dumps(request).encode(), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the operator's address
                result: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                result = json.load(error)
            if "result_id" not in result:
                message = f"the service refused: {result['error']['message']}"
                raise OSError(message) from error
        return result


def label_result(result: dict[str, Any]) -> ClassificationResult[FaceInfo]:
    """Return the labels of a result."""
    values = [face["p_value"] for face in result["faces"] if face["p_value"] is not None]
    least, decision, no_face = min(values, default=None), result["decision"], result["status"] == "no_face"
    labels = {
        "unlike_photographs": FaceInfo(decision == "flag", least),
        "needs_review": FaceInfo(decision == "review" or (decision is None and not no_face), least),
        "no_face": FaceInfo(no_face),
    }
    return ClassificationResult(labels)
