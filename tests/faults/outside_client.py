"""An outside client: librdkafka, on which the clients of C, C++, Go, Rust, .NET and Python's confluent-kafka are built.

Records are sent with the Python binding where it can send them. It rejects header names that are not UTF-8, which the C
API accepts: such records are sent with functions of the same shared object.
"""

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.faults.traffic import DEAD_LETTERS, REQUESTS, RESULTS, Verdict

WAIT_S = 60
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
# Argument tags of rd_kafka_producev and the flag that copies the value, from rdkafka.h.
_END, _TOPIC, _VALUE, _KEY, _FLAGS, _HEADERS, _COPY = 0, 1, 4, 5, 7, 10, 2


@dataclass(frozen=True, slots=True)
class Sent:
    """A record to send; `timestamp_ms` 0 is now. Header names that are bytes go through the C API, without one."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str | bytes, bytes | None]] = ()
    timestamp_ms: int = 0

    @property
    def is_raw(self) -> bool:
        """Whether the Python binding cannot send it."""
        return any(isinstance(name, bytes) for name, _ in self.headers)


def set_option(bootstrap: str, topic: str, option: str, value: int) -> None:
    """Set one option of a topic."""
    entry = ConfigEntry(option, str(value), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(WAIT_S)


class OutsideProducer:
    """One producer for each codec; records are sent by each in turn."""

    def __init__(self, bootstrap: str) -> None:
        options = {"bootstrap.servers": bootstrap, "linger.ms": 20, "enable.idempotence": True}
        self._producers = [confluent_kafka.Producer({**options, "compression.type": codec}) for codec in CODECS]
        self._bootstrap = bootstrap
        self._count = 0

    def send(self, records: Sequence[Sent]) -> None:
        """Send and wait until all are acknowledged."""
        failures: list[str] = []

        def note(error: object, _message: object) -> None:
            if error is not None:
                failures.append(str(error))

        with _raw_producer(self._bootstrap) as send_raw:
            for record in records:
                if record.is_raw:
                    send_raw(record)
                    continue
                producer = self._producers[self._count % len(CODECS)]
                self._count += 1
                producer.produce(
                    REQUESTS,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                    timestamp=record.timestamp_ms,
                    on_delivery=note,
                )
            unsent = sum(producer.flush(WAIT_S) for producer in self._producers)
        assert not unsent, unsent
        assert not failures, failures[:3]

    def close(self) -> None:
        """Close the connections."""
        self._producers.clear()


class OutsideReader:
    """Reads results and dead letters with `read_committed`.

    Attributes:
        dead: the number of dead letters by the key and value of their record, which a dead letter keeps.
    """

    def __init__(self, bootstrap: str) -> None:
        self.verdict = Verdict()
        self.dead: Counter[tuple[bytes | None, bytes | None]] = Counter()
        self._consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "outside", "isolation.level": "read_committed"}
        )
        self._consumer.assign(
            [
                confluent_kafka.TopicPartition(topic, partition, confluent_kafka.OFFSET_BEGINNING)
                for topic in (RESULTS, DEAD_LETTERS)
                for partition in self._consumer.list_topics(topic, WAIT_S).topics[topic].partitions
            ]
        )

    def read(self, seconds: float) -> None:
        """Read for some seconds."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            for message in self._consumer.consume(500, left_s):
                assert message.error() is None, message.error()
                if message.topic() == DEAD_LETTERS:
                    self.dead[message.key(), message.value()] += 1
                else:
                    self.verdict.note_result(message.value())

    def read_until(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Read until `is_done()` or the timeout; return whether it is done."""
        until_s = time.monotonic() + timeout_s
        while not is_done() and time.monotonic() < until_s:
            self.read(0.25)
        return is_done()

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()


def find_lag(bootstrap: str, group: str) -> int:
    """Return the lag of the group: records after its committed offsets, over all partitions of the requests."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        partitions = consumer.list_topics(REQUESTS, WAIT_S).topics[REQUESTS].partitions
        topic_partitions = consumer.committed(
            [confluent_kafka.TopicPartition(REQUESTS, each) for each in partitions], WAIT_S
        )
        return sum(
            consumer.get_watermark_offsets(topic_partition, WAIT_S)[1] - max(topic_partition.offset, 0)
            for topic_partition in topic_partitions
        )
    finally:
        consumer.close()


@contextmanager
def _raw_producer(bootstrap: str) -> Iterator[Callable[[Sent], None]]:
    """Yield a function that produces with librdkafka's C API; flush and destroy the producer on exit."""
    package = Path(confluent_kafka.__file__).parent
    library: Any = ctypes.CDLL(str(next((package.parent / f"{package.name}.libs").glob("librdkafka*.so*"))))
    for function in (library.rd_kafka_conf_new, library.rd_kafka_new, library.rd_kafka_headers_new):
        function.restype = ctypes.c_void_p
    why = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(library.rd_kafka_conf_new())
    assert not library.rd_kafka_conf_set(settings, b"bootstrap.servers", bootstrap.encode(), why, len(why)), why.value
    producer = ctypes.c_void_p(library.rd_kafka_new(0, settings, why, ctypes.c_size_t(len(why))))
    assert producer, why.value

    def send(record: Sent) -> None:
        headers = ctypes.c_void_p(library.rd_kafka_headers_new(ctypes.c_size_t(len(record.headers))))
        for name, content in record.headers:
            encoded = name if isinstance(name, bytes) else name.encode()
            size = ctypes.c_ssize_t(-1 if content is None else len(content))
            error = library.rd_kafka_header_add(headers, encoded, ctypes.c_ssize_t(len(encoded)), content, size)
            assert not error, error
        fields = [_TOPIC, REQUESTS.encode(), _FLAGS, _COPY, _HEADERS, headers]
        for tag, content in ((_VALUE, record.value), (_KEY, record.key)):
            fields += [tag, content, ctypes.c_size_t(len(content or b""))]
        error = library.rd_kafka_producev(producer, *fields, _END)
        assert not error, error

    try:
        yield send
    finally:
        unsent = library.rd_kafka_flush(producer, WAIT_S * 1000)
        library.rd_kafka_destroy(producer)
        assert not unsent, unsent
