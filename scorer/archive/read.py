"""Gets the bytes of one listed image, from a file or from an object store that the operator named."""

from ingest.reasons import Reason, Unscorable
from scorer.archive.items import Item
from scorer.paths import read_image
from scorer.stream.payloads import read_stored


def read_item(item: Item, max_bytes: int, deadline: float) -> bytes:
    """Return an image's bytes; safe to call from many threads.

    Args:
        item: its bytes, where it brings them, are returned as they are.
        max_bytes: a longer one is refused.
        deadline: until when a store is asked again, on the monotonic clock.

    Raises:
        Unscorable: it is gone, too large, or its URI is none that is read here.
        PayloadUnavailable: the store did not answer in time, or does not let this machine in.
    """
    if item.data is not None:
        return item.data
    if item.uri.startswith("file:"):
        return read_image(item.uri, max_bytes)
    data = read_stored(item.uri, max_bytes, deadline)
    if len(data) > max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"more than the limit of {max_bytes} bytes")
    return data
