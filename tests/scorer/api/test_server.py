"""`unlensed api` as a process: it starts, finishes what is in flight at SIGTERM, and ends with its exit codes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scorer.api.server import bind
from scorer.settings import ApiSettings
from tests.scorer.api.conftest import Client, make_form
from tests.scorer.api.test_limits import in_flight, start_upload, wait_for

COMMAND = [sys.executable, "-c", "from scorer.commands.main import main; main()", "api", "--port"]


@contextmanager
def started(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", Client]]:
    """Run the command on a free port until the end of the block."""
    environment = os.environ | {"UNLENSED_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, "0", *arguments], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    try:
        url = next(line["url"] for line in map(json.loads, process.stderr) if "url" in line)
        yield process, Client(url)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_sigterm_finishes_what_is_in_flight(portrait: bytes) -> None:
    """An upload that has begun is scored, new connections are refused, and the exit code is 0."""
    with started() as (process, client):
        _, finish = start_upload(client, make_form(("a", portrait)), 1000)
        wait_for(lambda: in_flight(client).endswith(" 1.0"))
        process.send_signal(signal.SIGTERM)

        def refuses() -> bool:
            try:
                client.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(refuses)
        assert finish() == 200
        assert process.wait(30) == 0


@pytest.mark.parametrize(("arguments", "code"), [(("--host", "0.0.0.0"), 78), ((), 75)])  # noqa: S104 - what is tested
def test_what_cannot_start_says_why(arguments: tuple[str, ...], code: int) -> None:
    """Other machines without TLS, and a port in use, end the command before the bundle is read."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run = subprocess.run([*COMMAND, port, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == code, run.stderr
    assert json.loads(run.stderr.splitlines()[-1])["event"] == "the service ends"


def test_answers_are_sent_at_once() -> None:
    """The listener names its protocol, without which asyncio leaves Nagle's algorithm on: 40 ms for each answer."""
    with bind(ApiSettings(port=0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP
