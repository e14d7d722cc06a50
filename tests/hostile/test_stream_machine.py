"""Any events in a group of workers, in any order: each record gets an answer, and none suffers from another one."""

import base64
import io
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from PIL import Image

from ingest.probe import EncodedFace
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.base import FeatureBatch
from scorer.messages import ScoreRequest
from scorer.stream.broker import Record, TopicPartition
from tests.faults.traffic import Verdict
from tests.scorer.stream.memory_group import Killed, Member, MemoryGroup
from tests.scorer.stream.service_bench import Bench, read_inline

PARTITIONS = [TopicPartition("unlensed.requests", number) for number in range(3)]
LIMITS = {"unlensed.results": 1500, "unlensed.dead-letters": 2000}
CODES = {"poison": "kills_worker", "oversize": "answer_too_large", "not_json": "not_json"}
MAX_MEMBERS = 3
LAST_TURNS = 3000
members = st.integers(0, MAX_MEMBERS - 1)
partitions = st.sampled_from(PARTITIONS)


@cache
def starter() -> Bundle:
    """Return the bundle, once for all examples."""
    return read_bundle(Path(__file__).resolve().parents[2] / "model_repository")


@cache
def picture(number: int) -> str:
    """Return one of a few different small images."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (number, 0, 0)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Checksums:
    """An engine whose features depend only on the image's bytes, so that the test detects exchanged answers."""

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """See `Embedder`."""
        size = starter().manifest.feature_size
        features = np.array([[zlib.crc32(face.data) / 2**32] * size for face in faces], np.float32).reshape(-1, size)
        return FeatureBatch(features, {}, np.zeros(len(faces), np.float32))


class Stream(RuleBasedStateMachine):
    """Workers of one group, the records that they receive, and the events that may affect them."""

    delivery = "at_least_once"

    def __init__(self) -> None:
        super().__init__()
        self.group = MemoryGroup({partition: [] for partition in PARTITIONS}, limits=LIMITS)
        self.kinds: dict[tuple[TopicPartition, int], str] = {}
        self.ids: dict[tuple[TopicPartition, int], str] = {}
        self.exposed: Counter[tuple[TopicPartition, int]] = Counter()  # to exits that no record caused
        self.paused: list[Member] = []
        self.ends = self.sent = 0  # `ends`: how often a worker lost its partitions
        self.join()

    @rule(partition=partitions, count=st.integers(1, 12))
    def send(self, partition: TopicPartition, count: int) -> None:
        """Send good requests."""
        for _ in range(count):
            self._send(partition, "good")

    @rule(partition=partitions, kind=st.sampled_from(["poison", "oversize", "not_json"]))
    def send_bad(self, partition: TopicPartition, kind: str) -> None:
        """Send a record that crashes workers, one whose answer is too large for its topics, or an invalid request."""
        self._send(partition, kind)

    @precondition(lambda self: self.ids)
    @rule(partition=partitions, number=st.integers(0, 1000))
    def duplicate(self, partition: TopicPartition, number: int) -> None:
        """Send any earlier record again."""
        (of, offset) = list(self.ids)[number % len(self.ids)]
        record = self.group.logs[of][offset]
        again = self.group.send(partition, record.key, record.value)
        self._remember(again, self.kinds[of, offset], self.ids[of, offset])

    @rule(member=members, turns=st.integers(1, 6))
    def poll(self, member: int, turns: int) -> None:
        """Let a worker continue for some turns."""
        for _ in range(turns):
            self._turn(member)

    @rule()
    def join(self) -> None:
        """Add a worker, which causes a rebalance."""
        if len(self.group.members) + len(self.paused) < MAX_MEMBERS:
            self.ends += 1
            Member(self.group, self._serve)

    @rule(member=members)
    def leave(self, member: int) -> None:
        """Stop a worker, which causes a rebalance."""
        if len(self.group.members) > 1:
            leaving = self._member(member)
            self.ends += 1
            leaving.stop.set()
            leaving.finish()

    @rule(member=members)
    def crash(self, member: int) -> None:
        """Kill a worker, but never twice with the same record in flight, which would count as the cause."""
        if self.group.members and self._expose(victim := self._member(member)):
            victim.kill()
            victim.turn()

    @rule(member=members)
    def pause(self, member: int) -> None:
        """Pause a worker for longer than its session: others take over its partitions, as after a crash."""
        if self.group.members and self._expose(victim := self._member(member)):
            victim.stand_still()
            self.paused.append(victim)

    @rule()
    def resume(self) -> None:
        """Resume a paused worker, which joins again."""
        if self.paused:
            self.paused.pop().go_on()

    @rule(what=st.sampled_from(["commit", "notes", "deliver"]), calls=st.integers(1, 2))
    def outage(self, what: str, calls: int) -> None:
        """Let the broker refuse the next offsets, notes or answers."""
        if not self.group.outages.total():
            self.group.outages[what] += calls

    @invariant()
    def nothing_is_wrong(self) -> None:
        """No offset passes an unanswered record, no good request is a dead letter, no two answers differ."""
        with self.group.lock:
            answers, committed = list(self.group.answers), dict(self.group.committed)
        letters: dict[tuple[TopicPartition, int], list[str]] = defaultdict(list)
        verdict = Verdict()
        for answer in answers:
            if answer.topic == "unlensed.results":
                verdict.note_result(answer.value or b"")
            else:
                headers = {name: (value or b"").decode() for name, value in answer.headers}
                partition = TopicPartition(headers["unlensed-topic"], int(headers["unlensed-partition"]))
                letters[partition, int(headers["unlensed-offset"])].append(headers["unlensed-error-code"])
        for key, codes in letters.items():
            assert set(codes) == {CODES.get(self.kinds[key])}, (key, codes)
            assert len(codes) == 1 or (self.delivery == "at_least_once" and len(codes) <= 1 + self.ends)
        assert not verdict.conflicting
        for partition, until in committed.items():
            for offset in range(until):
                assert self.ids[partition, offset] in verdict.answers or letters[partition, offset], (partition, offset)
        self.letters = letters

    def teardown(self) -> None:
        """Without further faults, each record is answered and committed, and each poison record is one dead letter."""
        self.group.outages.clear()
        while self.paused:
            self.resume()
        for turn in range(LAST_TURNS):
            if self._is_done():
                break
            self._turn(turn)
        assert self._is_done(), (self.group.committed, self.group.notes)
        self.nothing_is_wrong()
        poisons = {key for key, kind in self.kinds.items() if kind == "poison"}
        assert poisons <= self.letters.keys()
        for member in list(self.group.members):
            member.kill()
            member.turn()

    def _is_done(self) -> bool:
        return all(self.group.committed.get(partition, 0) == len(log) for partition, log in self.group.logs.items())

    def _send(self, partition: TopicPartition, kind: str) -> None:
        self.sent += 1
        request = {
            "request_id": f"{kind}-{self.sent}",
            "content_id": "c",
            "image": {"bytes": picture(self.sent % 8)},
            "faces": [{"face_id": "0", "box": [0, 0, 64, 64]}],
            "attributes": {"large": "x" * 1000} if kind == "oversize" else {},
        }
        value = b"no JSON" if kind == "not_json" else json.dumps(request).encode()
        record = self.group.send(partition, b"key", value)
        self._remember(record, kind, request["request_id"])  # type: ignore[arg-type]

    def _remember(self, record: Record, kind: str, request_id: str) -> None:
        self.kinds[record.topic_partition, record.offset], self.ids[record.topic_partition, record.offset] = (
            kind,
            request_id,
        )

    def _member(self, number: int) -> Member:
        return self.group.members[number % len(self.group.members)]

    def _turn(self, number: int) -> None:
        """Let a member do one turn. A record may kill it; any other exit fails the test."""
        if not self.group.members:
            self.join()
        if not self.group.members:  # all are paused
            return
        member = self._member(number)
        member.turn()
        if member.dead:
            assert isinstance(member.error, Killed), member.error
            self.ends += 1

    def _expose(self, member: Member) -> bool:
        """Return whether no record that may be in flight at a member was exposed before; if so, expose them all."""
        owned = [partition for partition, owner in self.group.owners.items() if owner is member]
        may = [
            (partition, offset)
            for partition in owned
            for offset in range(self.group.committed.get(partition, 0), len(self.group.logs[partition]))
        ]
        if any(self.exposed[key] for key in may):
            return False
        self.exposed.update(may)
        self.ends += 1
        return True

    def _serve(self, member: Member) -> None:
        def read(request: ScoreRequest, max_bytes: int) -> bytes:
            if request.request_id.startswith("poison"):
                member.kill()
                raise Killed
            return read_inline(request, max_bytes)

        bench = Bench(starter(), Checksums(), read, source=lambda *_: member, sink=lambda *_: member, stop=member.stop)
        bench.service(delivery=self.delivery, drain_s=5, revoke_s=1).run()


class StreamOnce(Stream):
    """The same with transactions."""

    delivery = "exactly_once"


# The progress of the workers at each step depends on threads. An example is not reproducible: it is not shrunk or kept.
ONCE = settings(max_examples=6, stateful_step_count=30, phases=[Phase.generate], database=None)
TestStream = Stream.TestCase
TestStream.settings = settings(ONCE, max_examples=12)
TestStreamOnce = StreamOnce.TestCase
TestStreamOnce.settings = ONCE
