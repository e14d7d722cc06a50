"""Where images may be read from; `scorer.settings` nests it, so that `UNLENSED_PAYLOADS__SCHEMES` sets `schemes`."""

from pathlib import Path

from scorer.sections import Seconds, SettingsSection


class PayloadSettings(SettingsSection):
    """Where a claim check may point: everything is refused until it is listed.

    Attributes:
        schemes: fsspec protocols, `file` and `s3` among them.
        file_roots: the folders that `file://` may read, after links are resolved.
        https_hosts: exact host names; `https://` is refused for all others.
    """

    schemes: tuple[str, ...] = ()
    file_roots: tuple[Path, ...] = ()
    https_hosts: tuple[str, ...] = ()
    timeout_s: Seconds = 10
