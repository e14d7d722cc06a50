"""Which addresses `https://` may reach: those of the public internet only.

The URI of a request is untrusted. Without this check it could read what only this machine can reach: another service,
the metadata endpoint of a cloud, a machine on the local network.
"""

import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the low 32 bits are the IPv4 address of the destination
_UNICAST = IPv6Network("2000::/3")  # the only block from which public IPv6 addresses are assigned
_SPECIAL_V6 = (
    IPv6Network("2001::/23"),  # protocol assignments, including Teredo, which embeds IPv4
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4: embeds IPv4, obsolete (RFC 7526)
    IPv6Network("3fff::/20"),  # documentation
)
_SPECIAL_V4 = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # relays of 6to4, obsolete
)
# The resolver of the system has no time limit that can be set; a few threads wait for it on behalf of all callers.
_RESOLVERS = ThreadPoolExecutor(8, "payload-dns")


class Endpoint(NamedTuple):
    """An address to connect to, in the form that `socket` expects."""

    family: socket.AddressFamily
    address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

    @property
    def ip(self) -> Address:
        """The address without port and zone."""
        return ip_address(str(self.address[0]).partition("%")[0])


Resolve = Callable[[str, int, float], list[Endpoint]]


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet.

    Private, loopback, link-local, multicast, reserved and documentation addresses do not; neither do IPv6 addresses
    that embed IPv4 (mapped, 6to4, Teredo). For a NAT64 address the embedded IPv4 address counts.
    """
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
        return address in _UNICAST and not any(address in network for network in _SPECIAL_V6)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _SPECIAL_V4)
    )


def resolve_host(host: str, port: int, timeout_s: float) -> list[Endpoint]:
    """Return all addresses of `host` from the resolver of the system.

    Raises:
        TimeoutError: no answer within `timeout_s`.
        OSError: the name does not exist, or the resolver does not answer.
    """
    answers: Future[list[Endpoint]] = _RESOLVERS.submit(_ask_resolver, host, port)
    try:
        return answers.result(timeout_s)
    finally:
        answers.cancel()


def _ask_resolver(host: str, port: int) -> list[Endpoint]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Endpoint(family, address) for family, _, _, _, address in answers]
