"""Claim checks: files under roots, a real S3 server, and stores that fail."""

import asyncio
import contextlib
import hashlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec.asyn
import psutil
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from s3fs import S3FileSystem

from ingest.reasons import Reason, Unscorable
from scorer.errors import SettingsError
from scorer.messages import ImageSource, ScoreRequest
from scorer.payloads.read import PayloadUnavailable, check_payloads, read_payload
from scorer.settings import PayloadSettings
from tests.scorer.s3 import SECRET

LIMIT = 1000
BODY = bytes(range(250))


def ask(uri: str | None = None, data: bytes | None = None, sha256: str | None = None) -> ScoreRequest:
    """Return a request for an image."""
    image = ImageSource.model_construct(uri=uri, data=data, sha256=sha256)
    return ScoreRequest.model_construct(request_id="a", content_id="a", image=image)


def refuse(uri: str, settings: PayloadSettings) -> Reason:
    """Return the reason for which `uri` is refused; its text contains no secret."""
    with pytest.raises(Unscorable) as error:
        read_payload(ask(uri), settings, LIMIT)
    assert SECRET not in str(error.value)
    return error.value.reason


@given(st.binary(max_size=40))
def test_inline_bytes_are_checked_like_any(data: bytes) -> None:
    """Inline bytes come back unless they are too many or have another digest."""
    digest = hashlib.sha256(data).hexdigest()
    assert read_payload(ask(data=data, sha256=digest), PayloadSettings(), 40) == data
    for request, max_bytes, reason in [
        (ask(data=data), len(data) - 1, Reason.TOO_MANY_BYTES),
        (ask(data=data, sha256="0" * 64), 40, Reason.DIGEST_MISMATCH),
    ]:
        with pytest.raises(Unscorable) as error:
            read_payload(request, PayloadSettings(), max_bytes)
        assert error.value.reason is reason


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/hostname",
        "s3://bucket/a.jpg",
        "https://images.example/a.jpg",
        "http://images.example/a.jpg?x=hunter2",
        "local:///etc/hostname",
        "ftp://user:hunter2@images.example/a.jpg",
        "user:hunter2@images.example",
        "/etc/hostname",
        "a.jpg",
        "",
        "simplecache::file:///etc/hostname",
    ],
)
def test_everything_is_refused_until_it_is_listed(uri: str) -> None:
    """With the settings that a service starts with, no claim check is read."""
    assert refuse(uri, PayloadSettings()) is Reason.FORBIDDEN_URI


@pytest.mark.parametrize("scheme", ["http", "https", "local"])
def test_listing_a_scheme_opens_no_back_door(scheme: str) -> None:
    """Schemes that would evade the rules are refused at the start and at each request."""
    settings = PayloadSettings(schemes=(scheme,))
    with pytest.raises(SettingsError, match=scheme):
        check_payloads(settings)
    assert refuse(f"{scheme}:///etc/hostname", settings) is Reason.FORBIDDEN_URI


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (PayloadSettings(schemes=("s4",)), "s4"),
        (PayloadSettings(schemes=("gs",)), "gcsfs"),
        (PayloadSettings(schemes=("file",)), "file_roots"),
        (PayloadSettings(file_roots=(Path("/"),)), "file_roots"),
        (PayloadSettings(schemes=("file",), file_roots=(Path("/nowhere"),)), "nowhere"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: PayloadSettings, word: str) -> None:
    """A service does not start with claim checks that it could never read."""
    with pytest.raises(SettingsError, match=word):
        check_payloads(settings)


def test_settings_that_can_work_are_accepted(tmp_path: Path) -> None:
    """Installed stores and existing roots pass."""
    check_payloads(PayloadSettings())
    check_payloads(PayloadSettings(schemes=("file", "s3", "memory"), file_roots=(tmp_path,)))


@pytest.fixture
def roots(tmp_path: Path) -> PayloadSettings:
    """A folder that may be read, beside one that may not."""
    for name in ("open", "secret", "open-not"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a b.jpg").write_bytes(name.encode())
    (tmp_path / "link").symlink_to("open")
    return PayloadSettings(schemes=("file",), file_roots=(tmp_path / "link",))


def test_files_under_the_roots_are_read(roots: PayloadSettings, tmp_path: Path) -> None:
    """A file is read by its path, the root's link, a local host, and links inside."""
    inside = tmp_path / "open" / "inside.jpg"
    inside.symlink_to("a b.jpg")
    (tmp_path / "open" / "empty").touch()
    for path in (tmp_path / "open" / "a b.jpg", tmp_path / "link" / "a b.jpg", inside):
        assert read_payload(ask(path.as_uri()), roots, LIMIT) == b"open"
        assert read_payload(ask(path.as_uri().replace("file://", "FILE://localhost")), roots, 4) == b"open"
    assert read_payload(ask((tmp_path / "open" / "empty").as_uri()), roots, LIMIT) == b""


def test_files_elsewhere_are_forbidden(roots: PayloadSettings, tmp_path: Path) -> None:
    """No path, link, look-alike or foreign host leads out of the roots."""
    (tmp_path / "open" / "out").symlink_to("../secret/a b.jpg")
    (tmp_path / "open" / "folder").symlink_to("../secret")
    inside = (tmp_path / "open").as_uri()
    for uri in (
        f"{inside}/out",
        f"{inside}/folder/a%20b.jpg",
        f"{inside}/../secret/a%20b.jpg",
        f"{inside}/%2e%2e/secret/a%20b.jpg",
        f"{inside}/..%2Fsecret%2Fa%20b.jpg",
        f"{inside}-not/a%20b.jpg",
        f"{inside}/../secret/missing",
        "file:///etc/passwd",
        "file:open/a%20b.jpg",
        inside.replace("file://", "file://elsewhere") + "/a%20b.jpg",
    ):
        assert refuse(uri, roots) is Reason.FORBIDDEN_URI, uri


def test_what_is_no_readable_file_is_unreadable(roots: PayloadSettings, tmp_path: Path) -> None:
    """Nothing, a folder, a pipe, a socket, a NUL, a circle of links, a long name."""
    folder = tmp_path / "open"
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to("circle")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        for name in ("missing", "a%20b.jpg/deeper", "", "pipe", "socket", "%00", "circle", "x" * 300):
            assert refuse(f"{folder.as_uri()}/{name}", roots) is Reason.UNREADABLE, name
    device = PayloadSettings(schemes=("file",), file_roots=(Path("/dev"),))
    assert refuse("file:///dev/zero", device) is Reason.UNREADABLE


def test_large_files_are_not_read_whole(roots: PayloadSettings, tmp_path: Path) -> None:
    """A file of a terabyte is refused without reading more than the limit."""
    with (tmp_path / "open" / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert refuse((tmp_path / "open" / "huge").as_uri(), roots) is Reason.TOO_MANY_BYTES


def test_a_link_that_changes_during_the_check_gains_nothing(roots: PayloadSettings, tmp_path: Path) -> None:
    """While a link replaces a folder again and again, no byte from elsewhere is returned."""
    place, stop = tmp_path / "open" / "folder", threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            place.mkdir()
            (place / "a b.jpg").write_bytes(b"open")
            (place / "a b.jpg").unlink()
            place.rmdir()
            place.symlink_to("../secret")
            place.unlink()

    with ThreadPoolExecutor(1) as exchanger:
        exchanging = exchanger.submit(exchange)
        outcomes, reads = set(), 0
        until = time.monotonic() + 30  # on a busy machine the other thread may not run for a while
        while reads < 3000 or (len(outcomes) < 2 and time.monotonic() < until):
            reads += 1
            try:
                outcomes.add(read_payload(ask(f"{place.as_uri()}/a%20b.jpg"), roots, LIMIT))
            except Unscorable as error:
                outcomes.add(error.reason.encode())
        stop.set()
        exchanging.result()
    assert b"secret" not in outcomes
    assert len(outcomes) > 1


def test_files_leak_no_descriptor(roots: PayloadSettings, tmp_path: Path) -> None:
    """Good files, folders, pipes and forbidden files are all closed again."""
    os.mkfifo(tmp_path / "open" / "pipe")
    before = psutil.Process().num_fds()
    for name in ("a%20b.jpg", "", "pipe", "../secret/a%20b.jpg", "missing"):
        with contextlib.suppress(Unscorable):
            read_payload(ask(f"{(tmp_path / 'open').as_uri()}/{name}"), roots, LIMIT)
    assert psutil.Process().num_fds() == before


S3 = PayloadSettings(schemes=("s3",), timeout_s=20)
IMPATIENT = PayloadSettings(schemes=("s3",), timeout_s=1)


@pytest.fixture
def bucket(moto: str, credentials: Callable[[str], None]) -> str:
    """A bucket with objects of several sizes; its URI."""
    credentials(moto)
    store = S3FileSystem(skip_instance_cache=True)
    if not store.exists("images"):
        store.mkdir("images")
    for name, data in {"a b?c.jpg": BODY, "limit": bytes(LIMIT), "over": bytes(LIMIT + 1), "empty": b""}.items():
        store.pipe_file(f"images/{name}", data)
    return "s3://images"


def test_objects_are_read_to_the_limit(bucket: str) -> None:
    """An object is read by its name with any characters, and its digest is checked."""
    digest = hashlib.sha256(BODY).hexdigest()
    assert read_payload(ask(f"{bucket}/a b?c.jpg", sha256=digest), S3, LIMIT) == BODY
    assert read_payload(ask(f"{bucket}/limit"), S3, LIMIT) == bytes(LIMIT)
    assert read_payload(ask(f"{bucket}/empty"), S3, LIMIT) == b""
    with pytest.raises(Unscorable) as error:
        read_payload(ask(f"{bucket}/limit", sha256=digest), S3, LIMIT)
    assert error.value.reason is Reason.DIGEST_MISMATCH


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/over", Reason.TOO_MANY_BYTES),
        ("/missing", Reason.UNREADABLE),
        ("-missing/a", Reason.UNREADABLE),
        ("", Reason.UNREADABLE),
        (" bad name/a", Reason.UNREADABLE),
        ("/" + "x" * 2000, Reason.UNREADABLE),
    ],
)
def test_objects_that_cannot_be_had_are_refused(bucket: str, name: str, reason: Reason) -> None:
    """Too large, not there, or no name at all: reasons, because asking again would not help."""
    assert refuse(bucket + name, S3) is reason


def test_many_threads_share_one_client(bucket: str) -> None:
    """Readers that start together read right, and open one client's connections only."""
    process = psutil.Process()
    threads, sockets = process.num_threads(), len(process.net_connections())
    with ThreadPoolExecutor(12) as readers:
        for data in readers.map(lambda _: read_payload(ask(f"{bucket}/limit"), S3, LIMIT), range(60)):
            assert data == bytes(LIMIT)
    assert len(process.net_connections()) - sockets <= 2 * 12  # moto's ends are counted, too
    assert process.num_threads() - threads <= 12 + 1


class Script(http.server.BaseHTTPRequestHandler):
    """Answers as a store with troubles does: `answers` in turn, the last one again and again."""

    answers: tuple[int, ...] = ()
    asked = 0

    def do_GET(self) -> None:
        """Answer with the next status; 0 hangs and 1 cuts the body short."""
        status = self.answers[min(type(self).asked, len(self.answers) - 1)]
        type(self).asked += 1
        if status == 0:
            time.sleep(3)
        self.send_response(status if status > 1 else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:9] if status == 1 else BODY)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextlib.contextmanager
def troubled_store(*answers: int) -> Iterator[tuple[str, type[Script]]]:
    """Run a store that gives `answers`; yield its address and what it counts."""
    script = type("Trouble", (Script,), {"answers": answers, "asked": 0})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), script) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", script
        finally:
            server.shutdown()
            serving.join()


def test_moments_of_trouble_are_waited_out(credentials: Callable[[str], None]) -> None:
    """A store that is overloaded, then breaks off, then answers has answered."""
    with troubled_store(503, 500, 1, 206) as (address, script):
        credentials(address)
        assert read_payload(ask("s3://bucket/a"), S3, LIMIT) == BODY
    assert script.asked == 4


@pytest.mark.parametrize("status", [0, 1, 403, 503])
def test_lasting_trouble_is_no_answer_about_the_image(credentials: Callable[[str], None], status: int) -> None:
    """A store that hangs, breaks off, forbids or is overloaded is unavailable."""
    with troubled_store(status) as (address, _):
        credentials(address)
        with pytest.raises(PayloadUnavailable) as error:
            read_payload(ask(f"s3://bucket/a?versionId={SECRET}"), IMPATIENT, LIMIT)
    assert SECRET not in str(error.value)
    assert "s3://bucket/a" in str(error.value)


def test_store_that_is_down_is_no_answer_about_the_image(credentials: Callable[[str], None]) -> None:
    """There is no server: the payload is unavailable, and nothing runs on in the background."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    credentials(f"http://127.0.0.1:{port}")
    with pytest.raises(PayloadUnavailable):
        read_payload(ask("s3://bucket/a"), IMPATIENT, LIMIT)
    for _ in range(1000):
        reading = [task for task in asyncio.all_tasks(fsspec.asyn.get_loop()) if "_read_range" in str(task)]
        if not reading:
            return
        time.sleep(0.01)
    pytest.fail(f"still at work: {reading}")


def test_stores_without_an_asynchronous_client_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any store of fsspec serves: read, missing, too large, and hanging."""
    settings = PayloadSettings(schemes=("memory",), timeout_s=1)
    fsspec.filesystem("memory").pipe_file("/folder/a.jpg", BODY)
    assert read_payload(ask("memory://folder/a.jpg"), settings, LIMIT) == BODY
    assert refuse("memory://folder/b.jpg", settings) is Reason.UNREADABLE
    fsspec.filesystem("memory").pipe_file("/folder/large", bytes(LIMIT + 1))
    assert refuse("memory://folder/large", settings) is Reason.TOO_MANY_BYTES
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: time.sleep(2))
    with pytest.raises(PayloadUnavailable):
        read_payload(ask("memory://folder/a.jpg"), settings, LIMIT)
