"""Converts records between the client and `scorer.stream.broker`, whatever bytes they contain.

Brokers do not check records: a client may send header names that are not UTF-8, and kafka-python never gets past the
first of them. Here each record is read by its length, so that an unreadable one does not affect the others: it is
returned without key and value, with a header `UNREADABLE` that states why.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from kafka import errors
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import decode_varint
from kafka.serializer import Serializer

from scorer.stream.broker import Outgoing, Record
from scorer.stream.dead_letters import UNREADABLE

MAX_HEADERS = 1000  # each takes about 200 bytes of memory, however short it is on the wire


class HeaderName(str):
    """A header name that is sent as the bytes from which it was read, UTF-8 or not."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:  # noqa: ARG002 - see below
        """Return the bytes; kafka-python calls this with strict UTF-8."""
        return super().encode("utf-8", "surrogateescape")


class TolerantBatch(DefaultRecordBatch):  # type: ignore[misc]  # the client ships no types
    """A batch in which an unreadable record does not affect the others.

    Raises:
        UnsupportedCodecError: its codec is not installed.
    """

    def __init__(self, buffer: bytes | bytearray | memoryview) -> None:
        super().__init__(buffer)
        self._pos: int
        self._expected: int = self.base_offset

    def __iter__(self) -> Iterator[DefaultRecord]:
        try:
            self._maybe_uncompress()
        except errors.UnsupportedCodecError:
            raise
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own
            self._decompressed = True
            return iter([self._skip_rest(f"the batch cannot be unpacked: {type(error).__name__}")])
        return self

    def __next__(self) -> DefaultRecord:
        if self._next_record_index >= self._num_records:
            raise StopIteration
        self._next_record_index += 1
        try:
            length, start = decode_varint(self._buffer, self._pos)
        except (ValueError, IndexError):
            length, start = -1, self._pos
        end = start + length
        if length < 0 or end > len(self._buffer):
            return self._skip_rest("the batch ends within a record")
        self._pos = end
        record = self._read(start, end)
        self._expected = record.offset + 1
        return record

    next = __next__

    def _read(self, start: int, end: int) -> DefaultRecord:
        """Return the record between two positions of the buffer; see the record format, version 2."""
        buffer, offset, timestamp = self._buffer, self._expected, self.max_timestamp
        try:
            _, position = decode_varint(buffer, start)
            delta, position = decode_varint(buffer, position)
            if self.timestamp_type != self.LOG_APPEND_TIME:
                timestamp = self.first_timestamp + delta
            delta, position = decode_varint(buffer, position)
            # The records after this one need offsets in the batch, too.
            latest = self.last_offset_delta - (self._num_records - self._next_record_index)
            if not self._expected - self.base_offset <= delta <= latest:
                return self._unreadable(offset, "its offset lies outside of its batch", timestamp)
            offset = self.base_offset + delta
            key, position = _read_bytes(buffer, position, end)
            value, position = _read_bytes(buffer, position, end)
            count, position = decode_varint(buffer, position)
            if not 0 <= count <= MAX_HEADERS:
                return self._unreadable(offset, f"it has {count} headers; at most {MAX_HEADERS} are read", timestamp)
            headers = []
            for _ in range(count):
                name, position = _read_bytes(buffer, position, end)
                content, position = _read_bytes(buffer, position, end)
                if name is None:
                    return self._unreadable(offset, "a header has no name", timestamp)
                headers.append((HeaderName(name.decode("utf-8", "surrogateescape")), content))
        except (ValueError, IndexError) as error:
            return self._unreadable(offset, f"its parts do not fit its length: {error}", timestamp)
        if position != end:
            return self._unreadable(offset, f"{end - position} bytes follow its last header", timestamp)
        return DefaultRecord(end - start, offset, timestamp, self.timestamp_type, key, value, headers)

    def _skip_rest(self, why: str) -> DefaultRecord:
        """Return one record that replaces all remaining ones of the batch."""
        first, self._next_record_index = self._expected, self._num_records
        until = max(first, self.last_offset)
        which = "" if until == first else f" (offsets {first} to {until} with it)"
        return self._unreadable(first, why + which, self.max_timestamp)

    def _unreadable(self, offset: int, why: str, timestamp: int) -> DefaultRecord:
        return DefaultRecord(0, offset, timestamp, self.timestamp_type, None, None, [(UNREADABLE, why.encode()[:200])])


def _read_bytes(buffer: bytearray, position: int, end: int) -> tuple[bytes | None, int]:
    length, position = decode_varint(buffer, position)
    if length < 0:
        return None, position
    if position + length > end:
        message = "a length reaches past the record"
        raise ValueError(message)
    return bytes(buffer[position : position + length]), position + length


class _TolerantBatches:
    """The batches of one fetch; the client reads control batches itself."""

    def __init__(self, records: Any) -> None:  # noqa: ANN401 - the client ships no types
        self._records = records

    def next_batch(self) -> Any:  # noqa: ANN401 - the client ships no types
        """Return the next batch, None after the last."""
        batch = self._records.next_batch()
        if isinstance(batch, DefaultRecordBatch) and not batch.is_control_batch:
            return TolerantBatch(batch._buffer)  # noqa: SLF001 - no public access
        return batch


class TolerantRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # the client ships no types
    """The fetched records of a partition; replaces the client's own class."""

    def _unpack_records(self, partition: object, records: object, *deserializers: object) -> Iterator[ConsumerRecord]:
        return iter(super()._unpack_records(partition, _TolerantBatches(records), *deserializers))

    def take(self, n: int | None = None) -> list[ConsumerRecord]:
        """Return records; the client would never return from `poll` after a damaged batch.

        Needed by test_a_damaged_batch_is_fetched_again in test_source.py.

        Raises:
            CorruptRecordError: a checksum is wrong; the batch may be correct when it is fetched again.
        """
        try:
            return list(super().take(n))
        except (errors.CorruptRecordError, struct.error):
            self.drain()
            raise


_NOTHING = object()  # replaces an absent value, which the client refuses with an absent key
_NO_VALUE = bytes(bytearray(1))  # replaces a header's absent value, which the client refuses; compared by identity


class _Builder(DefaultRecordBatchBuilder):  # type: ignore[misc]  # the client ships no types
    def append(
        self,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        **options: object,
    ) -> object:
        """Write a record, with absent header values, which the layers above this refuse."""
        kept = [(name, None if content is _NO_VALUE else content) for name, content in headers]
        return super().append(offset, timestamp, key, value, kept, **options)


# No option; https://github.com/dpkp/kafka-python/pull/2004 corrected the reading of such headers only.
# Needed by test_header_names_of_any_bytes_are_read in test_source.py.
memory_records.DefaultRecordBatchBuilder = _Builder


class RawSerializer(Serializer):  # type: ignore[misc]  # the client ships no types
    """Sends values unchanged, also absent ones."""

    def serialize(self, topic: str, headers: object, data: object) -> object:  # noqa: ARG002 - the client's signature
        """Return the value."""
        return None if data is _NOTHING else data


def send_record(producer: Any, record: Outgoing) -> Any:  # noqa: ANN401 - the client ships no types
    """Give a record to the client; return its future."""
    value = _NOTHING if record.value is None else record.value
    headers = [(HeaderName(name), _NO_VALUE if content is None else content) for name, content in record.headers]
    return producer.send(record.topic, value, key=record.key, headers=headers)


def to_record(fetched: Any) -> Record:  # noqa: ANN401 - the client ships no types
    """Return a client's record as `Record`."""
    return Record(
        fetched.topic,
        fetched.partition,
        fetched.offset,
        fetched.timestamp,
        fetched.key,
        fetched.value,
        tuple(fetched.headers),
    )
