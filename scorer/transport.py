"""Whether bytes may travel in the clear: over the loopback only, unless somebody says it is a development machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from scorer.errors import SettingsError


def is_loopback(url_or_host: str) -> bool:
    """Say whether `host`, `host:port`, `[v6]:port` or `scheme://host:port` is this machine by its spelling.

    No name is looked up: what a resolver answers may change after the question. Only `localhost` is known.
    """
    host = _host(url_or_host)
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def require_private_transport(url_or_host: str, *, encrypted: bool, insecure_dev: bool) -> None:
    """Refuse to send images or results in the clear to another machine.

    Raises:
        SettingsError: the connection is not encrypted, the host is not the loopback and nobody accepted that.
    """
    if encrypted or insecure_dev or is_loopback(url_or_host):
        return
    message = (
        f"the connection to {url_or_host} would not be encrypted and leaves this machine; "
        "configure TLS, or pass --insecure-dev on a development network"
    )
    raise SettingsError(message)


def _host(url_or_host: str) -> str:
    """Return the host; a bare IPv6 address has more than one colon and no port."""
    if "://" not in url_or_host and url_or_host.count(":") > 1 and not url_or_host.startswith("["):
        return url_or_host
    try:
        return urlsplit(url_or_host if "://" in url_or_host else f"//{url_or_host}").hostname or ""
    except ValueError:
        return ""
