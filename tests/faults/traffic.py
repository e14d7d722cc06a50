"""Requests to send and results to check: which answers are missing, duplicate or different."""

import base64
import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import skimage
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from PIL import Image

REQUESTS, RESULTS, DEAD_LETTERS = "unlensed.requests", "unlensed.results", "unlensed.dead-letters"
VARIANTS = 16
SIDE_PX = 192


@dataclass(frozen=True, slots=True)
class Sample:
    """One small photograph of the astronaut, and the box of its face: left, top, width, height in pixels."""

    data: bytes
    box: tuple[float, float, float, float]


def make_samples(count: int = VARIANTS) -> list[Sample]:
    """Return different JPEGs of about 8 KB around the public-domain portrait's face."""
    portrait = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    samples = []
    for number in range(count):
        left, top = 140 + 2 * number, 30 + number
        buffer = io.BytesIO()
        portrait.crop((left, top, left + SIDE_PX, top + SIDE_PX)).save(buffer, "JPEG", quality=85)
        samples.append(Sample(buffer.getvalue(), (180.0 - left, 70.0 - top, 95.0, 110.0)))
    return samples


def make_request(request_id: str, sample: Sample) -> bytes:
    """Return the value of a record with a sample and its box."""
    return json.dumps(
        {
            "request_id": request_id,
            "content_id": request_id,
            "image": {"bytes": base64.b64encode(sample.data).decode()},
            "faces": [{"face_id": "0", "box": sample.box}],
        }
    ).encode()


@dataclass(slots=True)
class Traffic:
    """Sends numbered requests and counts them; request n contains sample n modulo their number."""

    bootstrap: str
    samples: Sequence[Sample] = field(default_factory=make_samples)
    sent: int = 0

    def send(self, count: int) -> None:
        """Produce `count` requests and wait until they are acknowledged."""
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, acks="all", linger_ms=5)
        try:
            for number in range(self.sent, self.sent + count):
                value = make_request(f"r{number:07d}", self.samples[number % len(self.samples)])
                producer.send(REQUESTS, value=value, key=f"k{number % 97}".encode())
            producer.flush(60)
        finally:
            producer.close()
        self.sent += count

    def expected(self) -> set[str]:
        """Return the ids of all requests that were sent."""
        return {f"r{number:07d}" for number in range(self.sent)}


@dataclass(slots=True)
class Verdict:
    """The answers that were read.

    Attributes:
        answers: how often each request was answered, by result or dead letter.
        conflicting: requests with answers that differ in a face's numbers or decision.
        dead: error codes of dead letters.
    """

    answers: Counter[str] = field(default_factory=Counter)
    contents: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    dead: Counter[str] = field(default_factory=Counter)

    @property
    def duplicates(self) -> int:
        """Answers beyond the first of each request."""
        return sum(self.answers.values()) - len(self.answers)

    @property
    def conflicting(self) -> list[str]:
        """Requests that were answered differently."""
        return [request_id for request_id, contents in self.contents.items() if len(contents) > 1]

    def missing(self, expected: Iterable[str]) -> set[str]:
        """Return the requests without an answer."""
        return set(expected) - set(self.answers)

    def note_result(self, value: bytes) -> None:
        """Count a result and keep its numbers."""
        result = json.loads(value)
        self.answers[result["request_id"]] += 1
        faces = [(face["face_id"], face["log_likelihood"], face["decision"]) for face in result["faces"]]
        self.contents[result["request_id"]].add(json.dumps([result["result_id"], result["status"], faces]))


class Results:
    """Reads results and dead letters as they arrive, with `read_committed`."""

    def __init__(self, bootstrap: str) -> None:
        self.verdict = Verdict()
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
        )
        topic_partitions = [
            KafkaTopicPartition(topic, partition)
            for topic in (RESULTS, DEAD_LETTERS)
            for partition in self._consumer.partitions_for_topic(topic) or ()
        ]
        self._consumer.assign(topic_partitions)
        self._consumer.seek_to_beginning(*topic_partitions)

    def read(self, seconds: float) -> int:
        """Read for some seconds; return the number of answers."""
        until_s, count = time.monotonic() + seconds, 0
        while (left_s := until_s - time.monotonic()) > 0:
            for records in self._consumer.poll(timeout_ms=left_s * 1000).values():
                for record in records:
                    self._note(record.topic, record.value, dict(record.headers))
                    count += 1
        return count

    def read_until(self, expected: set[str], timeout_s: float) -> bool:
        """Read until every request is answered or the timeout; return whether every one is."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            self.read(0.25)
            if not self.verdict.missing(expected):
                return True
        return False

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def _note(self, topic: str, value: bytes, headers: dict[str, bytes]) -> None:
        if topic == DEAD_LETTERS:
            self.verdict.dead[headers["unlensed-error-code"].decode()] += 1
            self.verdict.answers[json.loads(value)["request_id"]] += 1
            return
        self.verdict.note_result(value)
