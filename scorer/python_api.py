"""Scoring from Python, for notebooks and request handlers: open a bundle once, then score files or bytes."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from scorer.local_scorer import LocalScorer
from scorer.messages import ImageSource, RequestedFace, ScoreRequest, ScoreResult
from scorer.payloads.local_file import request_file
from scorer.settings import load_settings

if TYPE_CHECKING:
    from scorer.bundle.bundle import Bundle
    from scorer.decide import Policy

Boxes = Sequence[RequestedFace | Mapping[str, Any]]


def open_scorer(bundle: str | PathLike[str] | None = None, **settings: Any) -> "Scorer":  # noqa: ANN401 - as Settings has them
    """Open a bundle in this process: read and verify it, start the decoding processes and the engine.

    Args:
        bundle: the bundle's folder; None opens the starter bundle.
        settings: any setting of `scorer.settings.Settings`, for example `threads=2`, `device="cpu"`,
            `bundle_digest="..."` or `policy={"review_false_alarm_rate": 0.1}`. Settings that are not given come from
            environment variables and the settings file.

    Raises:
        SettingsError: a setting is unknown or has no usable value.
        BundleMismatch: the bundle cannot be trusted, or the engine of this machine does not give its golden answers.
        PolicyError: the calibration of the bundle does not support the policy.
        DeviceUnavailable: the requested device does not exist.
    """
    return Scorer(LocalScorer(load_settings(bundle=None if bundle is None else Path(bundle), **settings)))


class Scorer:
    """An open bundle. Close it, or use it in a `with` statement: it owns processes.

    Any thread may call it. `score_bytes` decodes in parallel; one call at a time uses the engine.

    Attributes:
        bundle: the bundle that scores.
        policy: the policy that decides.
        policy_note: a sentence if the policy differs from that of the settings, else an empty text.
    """

    def __init__(self, local: LocalScorer) -> None:
        self._local, self._engine = local, threading.Lock()
        self.bundle: Bundle = local.bundle
        self.policy: Policy = local.policy
        self.policy_note: str = local.policy_note

    def score_files(self, paths: Iterable[str | PathLike[str]]) -> Iterator[ScoreResult]:
        """Yield one result per file, in order; later files are read and decoded meanwhile.

        A file that cannot be read or decoded gives a result with the status `failed` or `unsupported`, never an
        exception. The engine belongs to this call until the iterator is exhausted or closed.
        """
        with self._engine, closing(self._local.score(request_file(Path(path)) for path in paths)) as results:
            yield from results

    def score_bytes(self, data: bytes, *, faces: Boxes | None = None, name: str = "image") -> ScoreResult:
        """Return the result of one encoded image.

        Args:
            data: the bytes of a JPEG, PNG, WebP, HEIC, AVIF or JPEG XL file.
            faces: boxes as `{"face_id": "1", "box": [x, y, width, height]}` in upright pixels; None finds the faces.
            name: the `request_id` and `content_id` of the result.

        Raises:
            pydantic.ValidationError: a box has no area, or two have one `face_id`.
        """
        boxes = None if faces is None else tuple(map(RequestedFace.model_validate, faces))
        request = ScoreRequest(request_id=name, content_id=name, image=ImageSource(data=data), faces=boxes)
        located = self._local.locate(request, data)
        with self._engine:
            return self._local.score_located(located)

    def close(self) -> None:
        """Stop the decoding processes. A closed scorer cannot score."""
        self._local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
