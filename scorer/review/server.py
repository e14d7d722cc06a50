"""The page of `unlensed review`: shows faces, and saves each label at once. It answers this machine only."""

import hashlib
import secrets
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from http import HTTPStatus
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import FaceBox
from scorer.api.page import REPORT_STYLE, list_page_routes
from scorer.api.server import BACKLOG, bind, name_url, run_server
from scorer.archive.calibration.labels import Label
from scorer.archive.report.gallery import FaceImageReader, cut_jpeg
from scorer.archive.report.reading import ArchiveReader
from scorer.process_exit import stop_on_signals
from scorer.review.faces import ReviewedFace, list_faces
from scorer.review.label_file import LabelFile
from scorer.settings import ApiSettings, Settings

SIDE_PX = 480
_HERE = Path(__file__).parent / "pages"
_FILES = {
    "/": ("text/html", (_HERE / "review.html",)),
    "/review.js": ("text/javascript", (_HERE / "review.js",)),
    "/review.css": ("text/css", (REPORT_STYLE, _HERE / "review.css")),
}
_SHOWN = {"result_id", "face_id", "content_id", "camera", "p_value", "face_decision", "decision", "reason_codes"}
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class GivenLabel(BaseModel):
    """A label that the page sends."""

    model_config = ConfigDict(extra="forbid")
    face: int = Field(ge=0)
    label: Label


class Review:
    """The faces of a run, their pictures and their labels."""

    def __init__(self, folder: Path, faces: list[ReviewedFace], reviewer: str, read_image: FaceImageReader) -> None:
        self.faces, self.reviewer, self.labels = faces, reviewer, LabelFile(folder)
        self._read_image = read_image
        self._sandbox = Sandbox(Path(), None, None, 1)
        self._lock = threading.Lock()  # the reader of an archive and its plan belong to one thread

    def close(self) -> None:
        """Stop the decoding process."""
        self._sandbox.close()

    def describe(self) -> dict[str, object]:
        """Return what the page shows of all faces, with the labels of every reviewer."""
        labels = self.labels.read()
        faces = [
            face.model_dump(include=_SHOWN) | {"labels": labels.get((face.result_id, face.face_id), {})}
            for face in self.faces
        ]
        return {"reviewer": self.reviewer, "faces": faces}

    def cut(self, face: ReviewedFace) -> bytes | None:
        """Return a face as JPEG, or None if it cannot be shown; its bytes must have the digest of the row."""
        with self._lock:
            data = self._read_image(face)
            if data is None or hashlib.sha256(data).hexdigest() != face.sha256:
                return None
            try:
                box = FaceBox(face.face_x, face.face_y, face.face_width, face.face_height)
                return cut_jpeg(data, box, self._sandbox, SIDE_PX)
            except (Unscorable, ValueError):  # ValueError: the box is not valid
                return None


def create_app(review: Review, secret: str) -> Starlette:
    """Return the application below the path `secret`, which other users of this machine do not know."""

    def describe(_: Request) -> Response:
        return JSONResponse(review.describe(), headers=_PRIVATE)

    def picture(request: Request) -> Response:
        number = request.path_params["number"]
        jpeg = review.cut(review.faces[number]) if number < len(review.faces) else None
        if jpeg is None:
            return Response(status_code=HTTPStatus.NOT_FOUND, headers=_PRIVATE)
        return Response(jpeg, headers=_PRIVATE, media_type="image/jpeg")

    async def label(request: Request) -> Response:
        # A page of another site cannot send this media type without being asked for permission first.
        if request.headers.get("content-type") != "application/json":
            return Response(status_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            given = GivenLabel.model_validate_json(await request.body())
            face = review.faces[given.face]
        except (ValidationError, IndexError):
            return Response(status_code=HTTPStatus.UNPROCESSABLE_ENTITY)
        review.labels.append(face, given.label, review.reviewer)
        labels = review.labels.read().get((face.result_id, face.face_id), {})
        return JSONResponse({"labels": labels}, headers=_PRIVATE)

    routes = [
        *list_page_routes(_FILES),
        Route("/faces", describe),
        Route("/faces/{number:int}.jpg", picture),
        Route("/labels", label, methods=["POST"]),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1"])
    return Starlette(routes=[Mount(f"/{secret}", routes=routes)], middleware=[hosts])


def review_run(  # noqa: PLR0913, PLR0917 - one parameter per flag
    folder: Path, settings: Settings, reviewer: str, most: int, port: int, announce: Callable[[str], object]
) -> int:
    """Show the page until a signal; return the number of faces.

    Args:
        folder: the run.
        settings: what may be read besides the run's sources.
        reviewer: the name in the labels.
        most: faces.
        port: 0 selects a free one.
        announce: called with the address of the page.

    Raises:
        UsageError, RunBroken: see `list_faces`; or the file of labels has another layout.
        OSError: the port is in use.
    """
    api, stop, secret = ApiSettings(port=port), threading.Event(), secrets.token_urlsafe(16)
    faces = list_faces(folder, most)
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stop.set, second=signal.SIG_DFL))
        listener = stack.enter_context(closing(bind(api)))
        review = stack.enter_context(closing(Review(folder, faces, reviewer, ArchiveReader(folder, settings))))
        review.labels.read()
        listener.listen(BACKLOG)
        announce(f"{name_url(api, listener)}/{secret}/")
        run_server(create_app(review, secret), api, listener, stop)
    return len(faces)
