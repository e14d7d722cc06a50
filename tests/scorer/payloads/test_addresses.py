"""Which addresses are of the public internet, and that asking for them ends in time."""

import socket
import threading
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.payloads.addresses import Endpoint, is_public, resolve_host

PRIVATE = (
    "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 "
    "198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 :: ::1 fe80::1 fec0::1 fc00::1 "
    "fd00:ec2::254 ff02::1 2001:db8::1 2001::1 2002:7f00:1::1 2002:808:808::1 64:ff9b:1::808:808 100::1 ::ffff:8.8.8.8 "
    "::8.8.8.8 3fff::1 4000::1"
)


def test_only_the_public_internet_is_public() -> None:
    """Every special block of both families is refused, and well-known public hosts are not."""
    assert [address for address in PRIVATE.split() if is_public(ip_address(address))] == []
    assert all(is_public(ip_address(address)) for address in ("8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8"))
    assert not is_public(Endpoint(socket.AF_INET6, ("fe80::1%lo", 443, 0, 1)).ip)


@given(st.integers(0, 2**32 - 1))
def test_embedded_addresses_gain_nothing(number: int) -> None:
    """NAT64 is as public as its address; mapped, compatible, 6to4 and Teredo never are."""
    inner = IPv4Address(number)
    assert is_public(IPv6Address((0x64FF9B << 96) | number)) == is_public(inner)
    for outer in ((0xFFFF << 32) | number, number, (0x2002 << 112) | (number << 80), (0x20010000 << 96) | number):
        assert not is_public(IPv6Address(outer))


def test_names_are_resolved() -> None:
    """The system's answers come as addresses to connect to."""
    endpoints = resolve_host("localhost", 443, 20)
    assert {str(endpoint.ip) for endpoint in endpoints} & {"127.0.0.1", "::1"}
    assert all(endpoint.address[1] == 443 for endpoint in endpoints)


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver has no limit of time that could be set; the caller has one."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20))
    with pytest.raises(TimeoutError):
        resolve_host("localhost", 443, 0.1)
    over.set()
