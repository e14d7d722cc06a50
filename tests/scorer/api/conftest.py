"""Real servers on free ports of the loopback, on the engine and the decoders of the session."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ingest.sandbox import Sandbox
from scorer.api.server import BACKLOG, name_url, open_app, run_server
from scorer.bundle.bundle import Bundle
from scorer.engines.openvino import LocalEmbedder
from scorer.settings import ApiSettings, HealthSettings, Settings
from scorer.stream.health import HealthState

BOUNDARY = "0123456789abcdef"


@dataclass(frozen=True)
class Answer:
    """An answer of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """Return the body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(self.json()["error"]["code"])


@dataclass(frozen=True)
class Client:
    """Sends requests to a server at `url`."""

    url: str

    def connect(self) -> socket.socket:
        """Return a connection without TLS."""
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), timeout=30)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Return the answer to one request; `_` in the name of a header stands for `-`."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def get(self, path: str, **headers: str) -> Answer:
        """Return the answer to a GET."""
        return self.send("GET", path, **headers)

    def post_json(self, request: object, **headers: str) -> Answer:
        """Return the answer to a JSON request, or to bytes as they are."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self.send("POST", "/v1/score", body, content_type="application/json", **headers)

    def post_files(self, *files: tuple[str, bytes], request: object = None, **headers: str) -> Answer:
        """Return the answer to a form with files and, unless it is None, the field `request`."""
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.send("POST", "/v1/score", make_form(*files, request=request), content_type=kind, **headers)


def make_form(*files: tuple[str, bytes], request: object = None) -> bytes:
    """Return the body of a form."""
    parts = [(f'name="file"; filename="{name}"', data) for name, data in files]
    parts += [('name="request"', json.dumps(request).encode())] if request is not None else []
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + data + b"\r\n"
        for name, data in parts
    )
    return body + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def running(
    bundle: Bundle, sandbox: Sandbox, embedder: LocalEmbedder, api: Mapping[str, Any], others: Mapping[str, Any]
) -> Iterator[Client]:
    """Run a server in a thread while the block runs."""
    health = HealthSettings(max_canary_age_s=86_400)  # no canary runs here, and a session may be long
    settings = Settings(bundle=bundle.folder, threads=1, api=ApiSettings(port=0, **api), **{"health": health, **others})
    state, stop = HealthState(settings.health), threading.Event()
    state.set_ready(ready=True, why="")
    state.canary(ok=True, detail="")
    failures: list[BaseException] = []
    with open_app(settings, bundle, sandbox, embedder, state, failures.append) as app, socket.socket() as listener:
        listener.bind((settings.api.host, 0))
        listener.listen(BACKLOG)
        thread = threading.Thread(target=run_server, args=(app, settings.api, listener, stop))
        thread.start()
        try:
            yield Client(name_url(settings.api, listener))
        finally:
            stop.set()
            thread.join()
    assert not failures


Serve = Callable[..., AbstractContextManager[Client]]


@pytest.fixture(scope="session")
def serve(starter: Bundle, sandbox: Sandbox, embedder: LocalEmbedder) -> Serve:
    """Run a server with settings of the section `api`, and `others`."""

    def start(
        others: Mapping[str, Any] | None = None,
        **api: Any,  # noqa: ANN401 - settings
    ) -> AbstractContextManager[Client]:
        return running(starter, sandbox, embedder, api, others or {})

    return start


@pytest.fixture(scope="session")
def client(serve: Serve) -> Iterator[Client]:
    """A server with the default settings."""
    with serve() as client:
        yield client


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Return when `condition` is true."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one token."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"# a client\n{'a' * 32}\n", encoding="utf-8")
    return path
