"""Who may ask: bearer tokens from a file that changes, and TLS."""

import json
import ssl
import urllib.request
from pathlib import Path

import pytest

from scorer.api.server import check_settings
from scorer.api.tokens import CHECK_EVERY_S, TokenFile
from scorer.errors import SettingsError
from scorer.settings import ApiSettings, Settings
from tests.scorer.api.conftest import Serve
from tests.scorer.stream.certificates import Authority

FIRST, SECOND = "a" * 32, "b" * 32


def test_only_a_token_of_the_file_opens(serve: Serve, token_file: Path, portrait: bytes) -> None:
    """Scores, the bundle and metrics need a token; probes do not."""
    with serve(token_file=token_file) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {FIRST}"}):
            refused = client.post_files(("a", portrait), **headers)
            assert (refused.status, refused.code) == (401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
            assert client.get("/v1/bundle", **headers).status == client.get("/metrics", **headers).status == 401
        assert client.get("/health/ready").status == 200
        assert client.post_files(("a", portrait), authorization=f"Bearer {FIRST}").status == 200


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """New tokens are valid and removed ones are not; a file that cannot be used changes nothing."""
    now = [0.0]
    path = tmp_path / "tokens"
    path.write_text(f"# clients\n{FIRST}\n\n", encoding="utf-8")
    tokens = TokenFile(path, lambda: now[0])
    assert tokens.accepts(FIRST)
    assert not tokens.accepts(FIRST[:-1])
    assert not tokens.accepts("")
    path.write_text(f"{SECOND}\n", encoding="utf-8")
    assert tokens.accepts(FIRST)  # not read yet
    now[0] += CHECK_EVERY_S
    assert not tokens.accepts(FIRST)
    assert tokens.accepts(SECOND)
    for broken in ("", "short\n", "with space " * 5):
        path.write_text(broken, encoding="utf-8")
        now[0] += CHECK_EVERY_S
        assert tokens.accepts(SECOND)
    path.unlink()
    now[0] += CHECK_EVERY_S
    assert tokens.accepts(SECOND)
    with pytest.raises(SettingsError, match="cannot be read"):
        TokenFile(path)


def test_tls_serves_the_files(serve: Serve, tmp_path: Path) -> None:
    """A client that trusts the authority gets an answer; one that does not refuses the certificate."""
    certificate = Authority(tmp_path).issue("api")
    with serve(certificate_file=certificate, key_file=certificate) as client:
        assert client.url.startswith("https://")
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with urllib.request.urlopen(f"{client.url}/health/live", context=context, timeout=30) as answer:  # noqa: S310 - https
            assert json.load(answer)["ok"]
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(f"{client.url}/health/live", timeout=30)  # noqa: S310 - https


def test_other_machines_need_tls_and_tokens(tmp_path: Path, token_file: Path) -> None:
    """Without one of them the service does not listen for others, unless a development network is accepted."""
    certificate = Authority(tmp_path).issue("api")
    tls = {"certificate_file": certificate, "key_file": certificate}
    check_settings(Settings())
    check_settings(Settings(api=ApiSettings(host="0.0.0.0", token_file=token_file, **tls)))  # noqa: S104 - what is tested
    check_settings(Settings(api=ApiSettings(host="0.0.0.0"), insecure_dev=True))  # noqa: S104 - what is tested
    for api, why in (
        ({"token_file": token_file}, "not be encrypted"),
        (tls, "api.token_file"),
        ({"certificate_file": certificate}, "needs both"),
        ({"certificate_file": token_file, "key_file": token_file}, "cannot be used"),
    ):
        with pytest.raises(SettingsError, match=why):
            check_settings(Settings(api=ApiSettings(host="0.0.0.0", **api)))  # type: ignore[arg-type]  # noqa: S104 - what is tested
