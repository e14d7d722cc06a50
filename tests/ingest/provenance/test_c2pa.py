"""C2PA manifests through the sandbox: validity, no network, and damage is a statement."""

import io
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from ingest.formats.jxl import strip_jxl
from ingest.probe import probe_image
from ingest.provenance.statements import Statement, Validity
from ingest.sandbox import Sandbox
from tests.ingest.formats import jxl_files
from tests.ingest.provenance.signed import Authority, make_authority


def encode(kind: str, size: int = 200) -> bytes:
    """Return a picture as encoded bytes."""
    picture = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    if kind == "JXL":
        return jxl_files.wrap(jxl_files.encode(picture))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs."""
    return make_authority()


@pytest.fixture(scope="module")
def trusting(authority: Authority) -> Iterator[Sandbox]:
    """A process that trusts the authority."""
    with closing(Sandbox(Path(), None, None, 1, trust=authority.root)) as sandbox:
        yield sandbox


def read(sandbox: Sandbox, data: bytes) -> tuple[Statement, ...]:
    """Return the statements of a picture."""
    return sandbox.read_statements(data, probe_image(data))


def list_lines(statements: tuple[Statement, ...]) -> list[tuple[str, str, str]]:
    """Return (kind, statement, validity) of each statement."""
    return [(each.kind, each.statement, each.validity) for each in statements]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "JXL"])
def test_a_signed_picture_is_trusted(trusting: Sandbox, authority: Authority, kind: str) -> None:
    """A manifest of a signer on the trust list is trusted, in every container."""
    signed = authority.sign(encode(kind), f"image/{kind.lower()}")
    assert list_lines(read(trusting, signed)) == [
        ("c2pa_manifest", "signed by Test signer; made with test maker 1.0", "trusted"),
        ("digital_source_type", "trainedAlgorithmicMedia", "trusted"),
    ]
    assert read(trusting, encode(kind)) == ()
    if kind == "JXL":  # a bare codestream has no place for one
        assert read(trusting, strip_jxl(signed)) == ()


def test_other_signers_and_changed_pictures(trusting: Sandbox, authority: Authority) -> None:
    """Another signer is valid, not trusted; a changed pixel is invalid; without a list none is trusted."""
    data = encode("JPEG")
    assert {each.validity for each in read(trusting, make_authority().sign(data, "image/jpeg"))} == {Validity.VALID}
    signed = authority.sign(data, "image/jpeg")
    changed = signed[:-20] + bytes([signed[-20] ^ 1]) + signed[-19:]
    assert {each.validity for each in read(trusting, changed)} == {Validity.INVALID}
    with closing(Sandbox(Path(), None, None, 1, trust="")) as sandbox:
        assert {each.validity for each in read(sandbox, signed)} == {Validity.VALID}


def test_damaged_manifests_are_statements(trusting: Sandbox, authority: Authority) -> None:
    """A manifest that is damaged anywhere is invalid or unreadable, never trusted, and the process goes on."""
    signed = authority.sign(encode("JPEG"), "image/jpeg")
    start, end = signed.index(b"jumb"), signed.rindex(b"c2pa.signature")
    for at in range(start, end, (end - start) // 40):
        damaged = signed[:at] + bytes([signed[at] ^ 0xFF]) + signed[at + 1 :]
        assert Validity.TRUSTED not in {each.validity for each in read(trusting, damaged)}
    assert Validity.TRUSTED in {each.validity for each in read(trusting, signed)}


def test_nothing_is_fetched(trusting: Sandbox, authority: Authority) -> None:
    """A manifest in another place is named as such, and its server gets no request."""
    requests: list[str] = []

    class Recorder(BaseHTTPRequestHandler):
        """Notes each request."""

        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/manifest.c2pa"
        data = authority.sign(encode("JPEG"), "image/jpeg", remote_url=url)
        assert list_lines(read(trusting, data)) == [
            ("c2pa_manifest", "a manifest in another place; not fetched", "unreadable")
        ]
        server.shutdown()
    assert requests == []


def test_a_large_signed_picture_fits_the_limits(trusting: Sandbox, authority: Authority) -> None:
    """A picture of 48 megapixels is checked within the memory and CPU time of a job."""
    data = Image.effect_noise((8000, 6000), 60).convert("RGB")
    buffer = io.BytesIO()
    data.save(buffer, "JPEG", quality=92)
    signed = authority.sign(buffer.getvalue(), "image/jpeg")
    assert Validity.TRUSTED in {each.validity for each in read(trusting, signed)}
