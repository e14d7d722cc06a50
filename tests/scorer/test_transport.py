"""Unencrypted data leaves this machine only if a setting accepts it."""

import pytest

from scorer.errors import SettingsError
from scorer.transport import is_loopback, require_private_transport

HERE = ["127.0.0.1:9092", "127.8.9.1", "localhost:8001", "LOCALHOST", "[::1]:8001", "::1", "kafka://127.0.0.1:1"]
ELSEWHERE = [
    "10.0.0.1:9092",
    "broker.example:9092",
    "localhost.example:1",
    "[2001:db8::1]:8001",
    "2001:db8::1",
    "127.0.0.1.example",
    "127.0.0.1@broker.example:9092",
    "0.0.0.0:8001",
    "[broken",
    "",
]


@pytest.mark.parametrize("host", HERE)
def test_the_loopback_needs_no_encryption(host: str) -> None:
    """Every spelling of the loopback is allowed without encryption."""
    assert is_loopback(host)
    require_private_transport(host, encrypted=False, insecure_dev=False)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_machine_needs_encryption(host: str) -> None:
    """Any other host is refused without encryption, and allowed with it or if accepted."""
    with pytest.raises(SettingsError, match="insecure-dev"):
        require_private_transport(host, encrypted=False, insecure_dev=False)
    require_private_transport(host, encrypted=True, insecure_dev=False)
    require_private_transport(host, encrypted=False, insecure_dev=True)
