"""The service's loop: poll, hand out, commit, hold back, and leave in good order.

Polling never stops while work is in flight: when a budget is full the partitions are paused and polling goes on, so
that the group never takes a busy worker for a dead one. The loop's thread owns the source; the deliverer's owns the
sink; everything in flight is in the ledger.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from scorer.errors import BrokerRefused, BrokerUnavailable
from scorer.messages import DeadLetterCode
from scorer.observe.logs import get_logger
from scorer.process_exit import before_foreseen_exit
from scorer.settings import StreamSettings
from scorer.stream.broker import Record, RecordSink, RecordSource, TopicPartition
from scorer.stream.crash_notes import MAX_CRASHES, CrashNote, find_suspects, new_process
from scorer.stream.foreseen_errors import FORESEEN, ForeseenExit
from scorer.stream.health import HealthState
from scorer.stream.isolation import Isolation
from scorer.stream.ledger import InFlight, Ledger, OffsetRange
from scorer.stream.metrics import Metrics
from scorer.stream.pipeline import Dependencies, RecordPipeline
from scorer.stream.result_producer import ResultProducer

POLL_S = 0.1
COMMIT_EVERY_S = 0.1
REPORT_EVERY_S = 1.0
MAX_POLL_RECORDS = 64
MAX_SUSPECTED_RECORDS = 8  # a poll while there are suspects, so that those of one partition do not fill the budget
ANNOUNCED_AHEAD = 32  # records a partition; one more suspect each after a death, and far fewer notes until then
RESUME_BELOW = 0.75  # of a budget, so that partitions are not paused and resumed at every record
LEAVE_S = 10.0  # for closing the notes before a thread ends the process; a broker has 5 s to keep them

log = get_logger(__name__)


class Service:
    """Answers a group's records; a `PartitionListener`.

    Args:
        stop: set from outside (a signal) to leave in good order.
        engine_waits: whether an outage of the engine is being waited out.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        source: RecordSource,
        sink: RecordSink,
        parts: Dependencies,
        settings: StreamSettings,
        *,
        metrics: Metrics,
        state: HealthState,
        stop: threading.Event,
        engine_waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source, self._sink, self._settings = source, sink, settings
        self._metrics, self._state, self._stop, self._engine_waits = metrics, state, stop, engine_waits
        self._policies = parts.policies
        self._ledger = Ledger()
        self._once = settings.delivery == "exactly_once"
        self._crash: BaseException | None = None
        self._pipeline = RecordPipeline(parts, settings, self._ledger, metrics, self.crash)
        self._deliverer = ResultProducer(
            self._ledger,
            sink,
            metrics,
            shrink=self._pipeline.shrink,
            on_outage=self._on_broker_outage,
            on_crash=self.crash,
            once=self._once,
        )
        self._process = new_process()
        self._topic_partitions: set[TopicPartition] = set()
        self._isolation = Isolation()
        self._others_turn = True  # and not a suspect's
        self._alone: InFlight | None = None
        self._done_alone: InFlight | None = None  # and not yet written down as done
        self._held: set[TopicPartition] = set()  # paused
        self._holding = False
        self._commit_at_s = self._report_at_s = 0.0
        self._left = threading.Event()  # nothing more will be committed or written down
        self._stalled = False

    def run(self, *, until_drained: bool = False) -> None:
        """Serve until told to stop, or until the source has no more; then finish, commit and leave.

        Raises:
            BrokerRefused: the broker will never do what it must.
            BundleMismatch: the engine came back as another one.
        """
        with before_foreseen_exit(self._close_notes_before_exit):
            self._run(until_drained=until_drained)

    def _run(self, *, until_drained: bool) -> None:
        self._source.subscribe(self)
        try:
            while not self._stop.is_set():
                self._turn()
                if (
                    until_drained
                    and not self._ledger.images
                    and self._topic_partitions
                    and not any(self._source.lag().values())
                ):
                    break
            self._drain()
        except FORESEEN as error:
            self._crash = self._crash or error
            self._deliverer.close(timeout_s=1)
            with suppress(BrokerRefused, BrokerUnavailable):
                self._source.close(timeout_s=self._settings.revoke_s)
            self._left.set()
            if isinstance(error, ForeseenExit):
                time.sleep(LEAVE_S)  # the thread that ends the process does so meanwhile
            raise
        finally:
            self._pipeline.close()
            self._deliverer.close(timeout_s=1)
            self._sink.close(timeout_s=1)

    def crash(self, error: BaseException) -> None:
        """End `run` with `error` at its next turn, with nothing more committed; any thread may call this."""
        self._crash = self._crash or error

    def _close_notes_before_exit(self) -> None:
        """Have the notes closed by the thread of `run`; called before another thread ends the process."""
        self.crash(ForeseenExit())
        self._left.wait(LEAVE_S)

    def on_assigned(self, notes: Mapping[TopicPartition, str]) -> None:
        """See `PartitionListener`."""
        for topic_partition, note in notes.items():
            self._ledger.open(topic_partition)
            self._topic_partitions.add(topic_partition)
            if suspects := find_suspects(note, self._process):
                self._isolation.suspect(topic_partition, suspects)
                log.warning(
                    "a worker died here; its records are processed alone",
                    topic=topic_partition.topic,
                    partition=topic_partition.partition,
                    first_offset=suspects.first,
                    records=suspects.until - suspects.first,
                    crashes=len(suspects.dead),
                )
        log.info("partitions assigned", partitions=sorted(topic_partition.partition for topic_partition in notes))

    def on_revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `PartitionListener`: finish what was begun, forget the rest, commit and close the notes.

        After a crash nothing is finished and nothing committed any more. What a stalled worker leaves undone keeps its
        open note, as after a death: it may be what stalled it.
        """
        self._forget_waiting(topic_partitions)
        if self._crash is None:
            if not self._ledger.wait_empty(topic_partitions, self._settings.revoke_s):
                log.warning("some records are not finished in time; their next owner starts them again")
            reaches = self._ledger.reach(topic_partitions)
            if not self._commit({topic_partition: reach.offset for topic_partition, reach in reaches.items()}):
                log.warning("the last offsets were not committed; the next owner repeats what follows them")
        undone = (
            {
                topic_partition
                for topic_partition in topic_partitions
                if not self._ledger.wait_empty({topic_partition}, 0)
            }
            if self._stalled
            else set()
        )
        self._close_notes(set(topic_partitions) - undone)
        self._let_go(topic_partitions)
        log.info(
            "partitions revoked", partitions=sorted(topic_partition.partition for topic_partition in topic_partitions)
        )

    def on_lost(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `PartitionListener`."""
        self._forget_waiting(topic_partitions)
        self._let_go(topic_partitions)
        log.warning(
            "partitions lost to another worker",
            partitions=sorted(topic_partition.partition for topic_partition in topic_partitions),
        )

    def on_expired(self, topic_partition: TopicPartition, first: int, until: int) -> None:
        """See `PartitionListener`."""
        name = f"{topic_partition.topic}-{topic_partition.partition}"
        if until < first:
            message = f"offset {first} of {name} is past its end; reading goes on at {until}"
        else:
            message = (
                f"{until - first} requests of {name} expired before they were read (offsets {first} to {until - 1})"
            )
            self._metrics.records_expired.labels(topic=topic_partition.topic).inc(until - first)
        log.warning(message)

    def _turn(self) -> None:
        room = self._settings.max_in_flight_images - self._ledger.images
        # A client that is given no time in `poll` does not get through a rebalance.
        timeout_s = 0.0 if self._alone else POLL_S
        most = MAX_SUSPECTED_RECORDS if self._isolation.suspected else MAX_POLL_RECORDS
        for record in self._source.poll(timeout_s, max(1, min(most, room))):
            self._receive(record)
        self._state.polled()
        if self._crash:
            raise self._crash
        self._hand_out()
        self._commit_regularly()
        self._hold_back()
        self._report()

    def _receive(self, record: Record) -> None:
        self._metrics.records_received.labels(topic=record.topic).inc()
        self._metrics.record_bytes_received.inc(record.size)
        self._isolation.add(self._ledger.add(record))

    def _hand_out(self) -> None:
        """Begin what may begin: all records but suspects, or one suspect alone; see `scorer.stream.isolation`."""
        if (self._alone and not self._finish_alone(self._alone)) or not self._settle():
            return
        others, next_alone = self._isolation.sort()
        if (self._others_turn or not next_alone) and not self._begin(others):
            return
        self._others_turn = not next_alone
        if not next_alone:
            return
        if self._ledger.images > len(self._isolation):
            self._ledger.wait_fewer(self._ledger.images, POLL_S)  # others are under way
        else:
            self._begin_alone(self._isolation.choose(next_alone))

    def _begin(self, entries: Collection[InFlight]) -> bool:
        """Begin records together; return whether all of them are."""
        for entry in entries:
            if not (self._ledger.is_announced(entry) or self._announce()):
                return False
            self._isolation.begin(entry)
            self._pipeline.submit(entry)
        return True

    def _begin_alone(self, entry: InFlight) -> None:
        """Begin a suspect when nothing else is in hand, and the notes say so."""
        topic_partition, offset = entry.record.topic_partition, entry.record.offset
        in_hand = {topic_partition: self._isolation.left_of(topic_partition, offset)}
        behind = (
            self._ledger.committed_reach({topic_partition})[topic_partition].offset < offset
        )  # and a note must not pass it
        if behind and not self._commit(self._ledger.uncommitted()):
            return
        if not self._write_notes(in_hand, self._topic_partitions - {topic_partition}):
            return
        crashes = len(self._isolation.crashed_with(topic_partition, offset))
        self._isolation.begin_alone(entry)
        if crashes >= MAX_CRASHES:
            message = f"{crashes} workers died with this record in hand, {crashes - 1} of them with no other"
            self._pipeline.reject(entry, DeadLetterCode.KILLS_WORKER, message, attempts=crashes)
        else:
            self._pipeline.submit(entry, alone=True)
        self._metrics.isolated_records.inc()
        self._alone = entry

    def _finish_alone(self, entry: InFlight) -> bool:
        """Return whether the record that was begun alone is done with."""
        if not self._ledger.wait_finished(entry, POLL_S):
            return False
        self._alone, self._done_alone, self._others_turn = None, entry, True
        if not self._settle():  # it is done, and no death from here on is its doing
            self._close_notes({entry.record.topic_partition})
        return True

    def _settle(self) -> bool:
        """Commit what was done alone and write down that it is done; return whether nothing of it is left to do."""
        if self._done_alone and self._commit(self._ledger.uncommitted()):
            topic_partition = self._done_alone.record.topic_partition
            if self._close_notes({topic_partition}):
                self._done_alone = None
        return self._done_alone is None

    def _announce(self) -> bool:
        """Write down what is in hand or soon will be, but of suspects only when one is begun."""
        unannounced = [
            topic_partition
            for topic_partition in self._ledger.unannounced()
            if topic_partition not in self._isolation.suspected
        ]
        return self._write_notes(
            {
                topic_partition: OffsetRange(reach.offset, reach.until + ANNOUNCED_AHEAD)
                for topic_partition, reach in self._ledger.committed_reach(unannounced).items()
            }
        )

    def _close_notes(self, topic_partitions: Collection[TopicPartition]) -> bool:
        """Write down that nothing is in hand, and who is still to be suspected; return whether that is kept."""
        return self._write_notes({}, topic_partitions)

    def _write_notes(
        self, in_hand: Mapping[TopicPartition, OffsetRange], closed: Collection[TopicPartition] = ()
    ) -> bool:
        """Write down what is in hand, and of which partitions nothing is; return whether that is kept."""
        done = self._ledger.committed_reach(closed)
        for topic_partition in done.keys() & self._isolation.suspected:
            done[topic_partition] = self._isolation.left_of(topic_partition, done[topic_partition].offset)
        notes: dict[TopicPartition, str] = {}
        for topic_partition, (first, until) in {**done, **in_hand}.items():
            dead = self._isolation.crashed_with(topic_partition, first)
            notes[topic_partition] = str(CrashNote(topic_partition in in_hand, first, until, self._process, dead))
        try:
            if notes:
                self._source.write_notes(notes)
        except BrokerUnavailable as error:
            log.warning("the broker keeps no notes now", error=str(error))
            return False
        self._ledger.announced(
            {topic_partition: reach.until for topic_partition, reach in in_hand.items()} | dict.fromkeys(done, -1)
        )
        return True

    def _commit(self, offsets: Mapping[TopicPartition, int], *, skipped: bool = False) -> bool:
        """Commit what was acknowledged, as transactions have done, or what was skipped; return whether it is stored."""
        if (self._once and not skipped) or not offsets:
            return True
        try:
            self._source.commit(offsets)
        except BrokerUnavailable as error:
            log.warning("a commit is put off", error=str(error))
            return False
        self._ledger.committed(offsets)
        return True

    def _commit_regularly(self) -> None:
        if time.monotonic() >= self._commit_at_s:
            self._commit(self._ledger.uncommitted())
            self._commit_at_s = time.monotonic() + COMMIT_EVERY_S

    def _hold_back(self) -> None:
        """Pause or resume all partitions by the budgets of bytes and images; those with a suspect waiting, too."""
        bytes_used = self._ledger.bytes / self._settings.max_in_flight_bytes
        images_used = self._ledger.images / self._settings.max_in_flight_images
        used = max(bytes_used, images_used)
        if used >= 1 and not self._holding:
            self._holding = True
            reason = "bytes" if bytes_used >= 1 else "images"
            reason = "broker" if self._deliverer.waiting else "backend" if self._engine_waits() else reason
            self._metrics.pauses.labels(reason=reason).inc()
        elif used < RESUME_BELOW:
            self._holding = False
        held = set(self._topic_partitions if self._holding else self._isolation.sort()[1])
        self._source.pause(held - self._held)
        self._source.resume(self._held - held)
        self._held = held
        self._metrics.paused.set(self._holding)

    def _report(self) -> None:
        self._metrics.in_flight_images.set(self._ledger.images)
        self._metrics.in_flight_bytes.set(self._ledger.bytes)
        now_s = time.monotonic()
        if now_s < self._report_at_s:
            return
        self._report_at_s = now_s + REPORT_EVERY_S
        # What holds no request at a partition's end is passed, or its committed lag would never be 0.
        self._commit(self._ledger.skip(self._source.skipped()), skipped=True)
        for topic_partition, records in self._source.lag().items():
            self._metrics.lag_records.labels(topic=topic_partition.topic, partition=str(topic_partition.partition)).set(
                records
            )
            if not records:
                self._isolation.caught_up(topic_partition)
        for topic_partition, seconds in self._source.blocked_s().items():
            self._metrics.transaction_open_seconds.labels(
                topic=topic_partition.topic, partition=str(topic_partition.partition)
            ).set(seconds)
        oldest_ms, unknown_s = self._ledger.oldest_timestamp_ms(), math.nan if self._ledger.images else 0.0
        self._metrics.lag_seconds.set(max(0.0, time.time() - oldest_ms / 1000) if oldest_ms else unknown_s)
        if self._policies.reload_if_changed():
            self._metrics.policy_reloads.inc()
        self._metrics.policy_refused.set(self._policies.refused)

    def _drain(self) -> None:
        """Begin nothing more; finish what was begun within the deadline, still a member of the group."""
        log.info("leaving: finishing what is in flight", images=self._ledger.images)
        deadline_s = time.monotonic() + self._settings.drain_s
        self._forget_waiting(self._topic_partitions)
        self._source.pause(self._topic_partitions)
        begun = self._ledger.images
        while time.monotonic() < deadline_s and not self._ledger.wait_empty(self._topic_partitions, 0):
            if self._crash:
                raise self._crash
            self._source.poll(POLL_S, 1)
            self._state.polled()
            self._commit_regularly()
        waited_for = self._deliverer.waiting or self._engine_waits()
        self._stalled = bool(begun) and self._ledger.images == begun and not waited_for
        if self._stalled:
            log.error("nothing that was begun came to an end; it counts as in hand at a death", images=begun)
        self._source.close(timeout_s=self._settings.revoke_s)
        log.info("left the group")

    def _forget_waiting(self, topic_partitions: Collection[TopicPartition]) -> None:
        self._ledger.drop(self._isolation.forget(topic_partitions))

    def _let_go(self, topic_partitions: Collection[TopicPartition]) -> None:
        self._ledger.close(topic_partitions)
        if self._alone and self._alone.record.topic_partition in topic_partitions:
            self._alone = None
        if self._done_alone and self._done_alone.record.topic_partition in topic_partitions:
            self._done_alone = None
        for topic_partition in topic_partitions:
            self._topic_partitions.discard(topic_partition)
            self._held.discard(topic_partition)
            self._isolation.let_go(topic_partition)
            self._metrics.forget(topic_partition)

    def _on_broker_outage(self, error: str | None) -> None:
        if error is None:
            log.info("the broker takes answers again")
        else:
            self._metrics.backend_retries.labels(backend="broker").inc()
            log.warning("the broker takes no answers; trying again", error=error)
