"""Where unencrypted connections are allowed: to the loopback only, unless a setting accepts a development network."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from scorer.errors import SettingsError


def is_loopback(url_or_host: str) -> bool:
    """Return whether `host`, `host:port`, `[v6]:port` or `scheme://host:port` is the loopback, judged by its text.

    No name is resolved, because a later answer of the resolver may differ. The only name that counts is `localhost`.
    """
    host = _host(url_or_host)
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def require_private_transport(url_or_host: str, *, encrypted: bool, insecure_dev: bool) -> None:
    """Refuse to send images or results unencrypted to another machine.

    Raises:
        SettingsError: the connection is not encrypted, the host is not the loopback and `insecure_dev` is not set.
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
