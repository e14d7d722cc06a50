"""The encoding of a reason in an error of Triton, which is a status and one line of text."""

import re

from ingest.reasons import Reason, Unscorable

_FAILURE = re.compile(r"unscorable\[(\w+)\] (.*)", re.DOTALL)


def write_failure(failure: Unscorable) -> str:
    """Return the text that `read_failure` reads."""
    return f"unscorable[{failure.reason}] {failure.detail}"


def read_failure(text: str) -> Unscorable | None:
    """Return the failure in a message of the server, which may contain other text; None if there is none."""
    found = _FAILURE.search(text)
    if not found or found[1] not in set(Reason):
        return None
    return Unscorable(Reason(found[1]), found[2])
