"""Dead letters: the original record, followed by headers that state why it was not answered.

    dead_letter = make_dead_letter(record, topic, DeadLetterCode.NOT_JSON, "...", attempts=1, bundle_digest="...")
    restore(record)   returns the original of a dead letter: key, value and headers, for its own topic

The added headers are always the last ones, so that no header of the original can be taken for them. If the original is
itself a dead letter (copied back with its headers), it keeps its own added headers once; older ones are removed, so
that a record that is copied back repeatedly does not grow.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scorer.messages import DeadLetterCode
from scorer.stream.broker import Headers, Outgoing, Record, TopicPartition

UNREADABLE = "unlensed-unreadable"  # the header of a record that replaces one that the client cannot parse
NAMES = (
    "unlensed-error-code",
    "unlensed-error-message",
    "unlensed-topic",
    "unlensed-partition",
    "unlensed-offset",
    "unlensed-timestamp-ms",
    "unlensed-attempts",
    "unlensed-bundle",
)
LEFT_OUT = (
    "unlensed-left-out",
    "unlensed-value-bytes",
    "unlensed-value-sha256",
)  # before NAMES
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_MESSAGE_CHARACTERS = 1000


class NotReplayable(ValueError):
    """This record cannot be replayed; the message states why."""


@dataclass(frozen=True, slots=True)
class DeadLetterReason:
    """Why a record was not answered.

    Attributes:
        topic_partition, offset: where it was read.
        timestamp_ms: when it was written.
    """

    code: str
    message: str
    topic_partition: TopicPartition
    offset: int
    timestamp_ms: int
    attempts: int
    bundle: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter in its topic; `written_at` is None where its timestamp is not a valid time."""

    topic_partition: TopicPartition
    offset: int
    written_at: datetime | None
    bytes: int
    reason: DeadLetterReason

    def as_dict(self) -> dict[str, object]:
        """Return the fields for a line of JSON, without the record's key, value and headers."""
        return {
            "partition": self.topic_partition.partition,
            "offset": self.offset,
            "died_at": self.written_at.isoformat(timespec="milliseconds") if self.written_at else None,
            "bytes": self.bytes,
            "code": self.reason.code,
            "message": self.reason.message,
            "attempts": self.reason.attempts,
            "bundle": self.reason.bundle,
            "record": {
                "topic": self.reason.topic_partition.topic,
                "partition": self.reason.topic_partition.partition,
                "offset": self.reason.offset,
                "timestamp_ms": self.reason.timestamp_ms,
            },
        }


def make_dead_letter(  # noqa: PLR0913, PLR0917 - one argument per fact
    record: Record, topic: str, code: DeadLetterCode, message: str, attempts: int, bundle_digest: str
) -> Outgoing:
    """Return the dead letter of a record.

    Args:
        record: the original.
        topic: the topic of dead letters.
        code: the reason, for machines.
        message: the reason, for people, without content of the record; cut after 1,000 characters.
        attempts: how often the record was processed.
        bundle_digest: the digest of the bundle.
    """
    facts = (
        code,
        message[:MAX_MESSAGE_CHARACTERS],
        record.topic,
        record.partition,
        record.offset,
        record.timestamp_ms,
        attempts,
        bundle_digest,
    )
    account = tuple((name, str(fact).encode(errors="replace")) for name, fact in zip(NAMES, facts, strict=True))
    return Outgoing(topic, record.key, record.value, (*_remove_older_accounts(record.headers), *account))


def shrink(record: Record, dead_letter: Outgoing) -> Outgoing | None:
    """Return a smaller dead letter: without the value, then also without key and headers; None after that.

    Size and SHA-256 digest of the value replace it. The original stays at its offset until its topic deletes it.
    """
    account = dead_letter.headers[-len(NAMES) :]
    if dead_letter.value is not None:
        what, key, headers = "value", record.key, dead_letter.headers[: -len(NAMES)]
    elif dead_letter.key is not None or len(dead_letter.headers) > len(LEFT_OUT) + len(NAMES):
        what, key, headers = "key, value, headers", None, ()
    else:
        return None
    value = record.value or b""
    facts = zip(LEFT_OUT, (what, len(value), hashlib.sha256(value).hexdigest()), strict=True)
    left_out = tuple((name, str(fact).encode()) for name, fact in facts)
    return Outgoing(dead_letter.topic, key, None, (*headers, *left_out, *account))


def find_unreadable(record: Record) -> str | None:
    """Return why the client could not parse a record that this one replaces; None for an ordinary record."""
    if record.key is not None or record.value is not None or [name for name, _ in record.headers] != [UNREADABLE]:
        return None
    return (record.headers[0][1] or b"").decode(errors="replace")


def read_dead_letter(record: Record) -> DeadLetter:
    """Return the dead letter in a record of the dead-letter topic.

    Raises:
        NotReplayable: it does not end with the headers of a dead letter.
    """
    if not _ends_with_account(record.headers):
        message = "it does not end with the headers of a dead letter"
        raise NotReplayable(message)
    code, why, topic, partition, offset, timestamp_ms, attempts, bundle = (
        (value or b"").decode(errors="replace") for _, value in record.headers[-len(NAMES) :]
    )
    try:
        topic_partition = TopicPartition(topic, int(partition))
        reason = DeadLetterReason(code, why, topic_partition, int(offset), int(timestamp_ms), int(attempts), bundle)
    except ValueError as error:
        message = f"its headers contain no numbers where numbers are required: {error}"
        raise NotReplayable(message) from error
    return DeadLetter(record.topic_partition, record.offset, _to_time(record.timestamp_ms), record.size, reason)


def restore(record: Record) -> Outgoing:
    """Return the original of a dead letter, for the topic that it was read from.

    Raises:
        NotReplayable: it is no dead letter, or its original could not be parsed or is incomplete.
    """
    dead_letter = read_dead_letter(record)
    headers = record.headers[: -len(NAMES)]
    if record.key is None and record.value is None and any(name == UNREADABLE for name, _ in headers):
        message = "its original could not be parsed; only its topic, partition and offset are known"
        raise NotReplayable(message)
    if tuple(name for name, _ in headers[-len(LEFT_OUT) :]) == LEFT_OUT and record.value is None:
        what, size, digest = ((value or b"").decode(errors="replace") for _, value in headers[-len(LEFT_OUT) :])
        message = (
            f"its original was too large for this topic and is stored without {what} ({size} bytes, SHA-256 {digest})"
        )
        raise NotReplayable(message)
    return Outgoing(dead_letter.reason.topic_partition.topic, record.key, record.value, headers)


def _to_time(timestamp_ms: int) -> datetime | None:
    try:
        return EPOCH + timedelta(milliseconds=timestamp_ms) if timestamp_ms >= 0 else None
    except OverflowError:
        return None


def _ends_with_account(headers: Headers) -> bool:
    return tuple(name for name, _ in headers[-len(NAMES) :]) == NAMES


def _remove_older_accounts(headers: Headers) -> Headers:
    accounts = 0
    while _ends_with_account(headers[: len(headers) - accounts * len(NAMES)]):
        accounts += 1
    if accounts <= 1:
        return headers
    own = headers[: len(headers) - accounts * len(NAMES)]
    return (*own, *headers[-len(NAMES) :])
