"""A real S3 server on the loopback, as fixtures for every room that reads object stores."""

from collections.abc import Callable, Iterator

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

SECRET = "hunter2"  # noqa: S105 - looked for in messages


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let s3fs find credentials in the environment; call it with the server's address."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()  # one of another test has another address
    return lambda address: monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """A real S3 server; its address."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
