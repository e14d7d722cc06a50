"""The bearer tokens of the clients, read from a file that may change while the service runs."""

import hmac
import re
import time
from collections.abc import Callable
from pathlib import Path

from scorer.errors import SettingsError
from scorer.observe.logs import get_logger

CHECK_EVERY_S = 1.0
TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750
LEAST_CHARACTERS, MAX_FILE_BYTES = 20, 1 << 20

log = get_logger(__name__)


class TokenFile:
    """One token a line; empty lines and lines that begin with # are ignored.

    The file is read again at most every `CHECK_EVERY_S`. A file that cannot be used any more is logged, and the tokens
    of the last one stay valid.

    Raises:
        SettingsError: the file cannot be read, or a line is no token.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._content, self._tokens = b"", tuple[bytes, ...]()
        self._read()
        self._checked_s = clock()

    def accepts(self, token: str) -> bool:
        """Return whether `token` is in the file; each is compared in constant time."""
        if self._clock() - self._checked_s >= CHECK_EVERY_S:
            self._checked_s = self._clock()
            self._reread()
        given = token.encode("utf-8", "surrogateescape")
        return sum([hmac.compare_digest(given, known) for known in self._tokens]) > 0  # no early end

    def _reread(self) -> None:
        try:
            if self._read():
                log.info("new tokens", count=len(self._tokens))
        except SettingsError as error:
            log.warning("the file of tokens cannot be used; the old ones stay valid", why=str(error))

    def _read(self) -> bool:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES)
        except OSError as error:
            message = f"api.token_file cannot be read: {error}"
            raise SettingsError(message) from error
        if content == self._content:
            return False
        lines = [line.strip() for line in content.splitlines()]
        tokens = tuple(line for line in lines if line and not line.startswith(b"#"))
        if not tokens or not all(TOKEN.fullmatch(token) and len(token) >= LEAST_CHARACTERS for token in tokens):
            message = (
                f"api.token_file {self._path}: it takes one token a line, each of at least {LEAST_CHARACTERS} letters, "
                "digits and ._~+/-, for example from `openssl rand -hex 32`"
            )
            raise SettingsError(message)
        self._content, self._tokens = content, tokens
        return True
