"""Records as the seam has them, out of what a broker sent and into what it is sent, whatever bytes they hold.

Brokers do not look into records: a client may send header names that are not UTF-8, and kafka-python stops at the first
of them for ever. Here a record is read by its length, so that one that cannot be used costs no other: it is returned
without key and value, with a header `UNREADABLE` that says why.
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

MAX_HEADERS = 1000  # each takes some 200 bytes of memory, however short it is on the wire


class HeaderName(str):
    """A header's name that is sent as the bytes that it was read from, UTF-8 or not."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:  # noqa: ARG002 - see below
        """Return the bytes; kafka-python asks for strict UTF-8 wherever it needs them."""
        return super().encode("utf-8", "surrogateescape")


class Batch(DefaultRecordBatch):  # type: ignore[misc]  # the client ships no types
    """A batch of records of which none makes another unreadable.

    Raises:
        UnsupportedCodecError: it is compressed with what is not installed here.
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
            return iter([self._give_up(f"the batch cannot be unpacked: {type(error).__name__}")])
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
            return self._give_up("the batch ends within a record")
        self._pos = end
        record = self._read(start, end)
        self._expected = record.offset + 1
        return record

    next = __next__

    def _read(self, start: int, end: int) -> DefaultRecord:
        """Return the record between two places of the buffer; see the format of records, version 2."""
        buffer, offset, timestamp = self._buffer, self._expected, self.max_timestamp
        try:
            _, position = decode_varint(buffer, start)
            delta, position = decode_varint(buffer, position)
            if self.timestamp_type != self.LOG_APPEND_TIME:
                timestamp = self.first_timestamp + delta
            delta, position = decode_varint(buffer, position)
            if not 0 <= delta <= self.last_offset_delta:
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

    def _give_up(self, why: str) -> DefaultRecord:
        """Return one record that stands for all that are left of the batch."""
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


class _Batches:
    """The batches of one fetch, those of control records as the client reads them itself."""

    def __init__(self, records: Any) -> None:  # noqa: ANN401 - the client ships no types
        self._records = records

    def next_batch(self) -> Any:  # noqa: ANN401 - the client ships no types
        """Return the next batch, None after the last."""
        batch = self._records.next_batch()
        if isinstance(batch, DefaultRecordBatch) and not batch.is_control_batch:
            return Batch(batch._buffer)  # noqa: SLF001 - it has no other form of itself
        return batch


class TolerantRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # the client ships no types
    """What was fetched of a partition; takes the place of the client's own class."""

    def _unpack_records(self, partition: object, records: object, *deserializers: object) -> Iterator[ConsumerRecord]:
        return iter(super()._unpack_records(partition, _Batches(records), *deserializers))

    def take(self, n: int | None = None) -> list[ConsumerRecord]:
        """Return records; the client would spin for ever at a batch that was damaged on its way here.

        Raises:
            CorruptRecordError: a checksum is wrong; the batch may be whole when it is fetched again.
        """
        try:
            return list(super().take(n))
        except (errors.CorruptRecordError, struct.error):
            self.drain()
            raise


_NOTHING = object()  # stands for an absent value, which the client refuses beside an absent key
_NO_VALUE = bytes(bytearray(1))  # stands for a header's absent value, which the client refuses; known by its identity


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
        """Write a record; a header may be without a value, which everything above this insists on."""
        kept = [(name, None if content is _NO_VALUE else content) for name, content in headers]
        return super().append(offset, timestamp, key, value, kept, **options)


memory_records.DefaultRecordBatchBuilder = _Builder  # the client has no option for this


class Verbatim(Serializer):  # type: ignore[misc]  # the client ships no types
    """Sends values as they are, absent ones too."""

    def serialize(self, topic: str, headers: object, data: object) -> object:  # noqa: ARG002 - the client's signature
        """Return the value."""
        return None if data is _NOTHING else data


def send_record(producer: Any, record: Outgoing) -> Any:  # noqa: ANN401 - the client ships no types
    """Hand a record to the client; return what can be waited for."""
    value = _NOTHING if record.value is None else record.value
    headers = [(HeaderName(name), _NO_VALUE if content is None else content) for name, content in record.headers]
    return producer.send(record.topic, value, key=record.key, headers=headers)


def packed_bytes(record: Outgoing) -> int:
    """Return what a broker compares with max.message.bytes, or a few bytes more: the size of a batch of this record."""
    headers = [(HeaderName(name), content) for name, content in record.headers]
    return int(DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, headers))


def to_record(fetched: Any) -> Record:  # noqa: ANN401 - the client ships no types
    """Return a record as the seam has it."""
    return Record(
        fetched.topic,
        fetched.partition,
        fetched.offset,
        fetched.timestamp,
        fetched.key,
        fetched.value,
        tuple(fetched.headers),
    )
