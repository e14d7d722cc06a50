"""The service's loop: poll, start records, commit, pause and resume, and leave the group.

Polling never stops while records are in flight: when a budget is used up, the partitions are paused and polling
continues, so that the group does not remove a busy worker. The loop's thread uses the source, the result producer's
thread uses the sink, and all records in flight are in the ledger.
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
from scorer.stream.metrics import Metrics, set_by_partition
from scorer.stream.pipeline import Dependencies, RecordPipeline
from scorer.stream.result_producer import ResultProducer

POLL_S = 0.1
COMMIT_EVERY_S = 0.1
REPORT_EVERY_S = 1.0
MAX_POLL_RECORDS = 64
MAX_SUSPECTED_RECORDS = 8  # per poll while there are suspects, so that those of one partition do not fill the budget
NOTED_AHEAD = 32  # further records in each note: more suspects after a crash, but far fewer notes
RESUME_BELOW = 0.75  # of a budget, so that partitions are not paused and resumed at every record
LEAVE_S = 10.0  # to close the notes before a thread exits the process; the broker has 5 s to store them

log = get_logger(__name__)


class Service:
    """Answers a group's records; a `PartitionListener`.

    Args:
        stop: set by a signal to leave the group and return.
        engine_waits: returns whether the engine is unavailable now.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        source: RecordSource,
        sink: RecordSink,
        dependencies: Dependencies,
        settings: StreamSettings,
        *,
        metrics: Metrics,
        state: HealthState,
        stop: threading.Event,
        engine_waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source, self._sink, self._settings = source, sink, settings
        self._metrics, self._state, self._stop, self._engine_waits = metrics, state, stop, engine_waits
        self._policies = dependencies.policies
        self._ledger = Ledger()
        self._exactly_once = settings.delivery == "exactly_once"
        self._crash: BaseException | None = None
        self._pipeline = RecordPipeline(dependencies, settings, self._ledger, metrics, self.crash)
        self._result_producer = ResultProducer(
            self._ledger,
            sink,
            metrics,
            shrink=self._pipeline.shrink,
            on_outage=self._on_broker_outage,
            on_crash=self.crash,
            once=self._exactly_once,
        )
        self._process = new_process()
        self._topic_partitions: set[TopicPartition] = set()
        self._isolation = Isolation()
        self._others_next = True  # else a suspect is next
        self._alone: InFlight | None = None
        self._done_alone: InFlight | None = None  # its crash note is not closed yet
        self._paused: set[TopicPartition] = set()
        self._over_budget = False
        self._commit_at_s = self._report_at_s = 0.0
        self._closed = threading.Event()  # no more commits or notes follow
        self._stalled = False

    def run(self, *, until_drained: bool = False) -> None:
        """Answer records until `stop` is set, or until the source is read to its end; then finish, commit and leave.

        Raises:
            BrokerRefused: the broker refuses, and a retry will not help.
            BundleMismatch: after an outage the engine is that of another bundle.
        """
        with before_foreseen_exit(self._close_notes_before_exit):
            self._run(until_drained=until_drained)

    def _run(self, *, until_drained: bool) -> None:
        self._source.subscribe(self)
        try:
            while not self._stop.is_set():
                self._run_once()
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
            self._result_producer.close(timeout_s=1)
            with suppress(BrokerRefused, BrokerUnavailable):
                self._source.close(timeout_s=self._settings.revoke_s)
            self._closed.set()
            if isinstance(error, ForeseenExit):
                time.sleep(LEAVE_S)  # the other thread exits the process meanwhile
            raise
        finally:
            self._pipeline.close()
            self._result_producer.close(timeout_s=1)
            self._sink.close(timeout_s=1)

    def crash(self, error: BaseException) -> None:
        """Stop `run` with `error` in its next loop, without further commits; any thread may call this."""
        self._crash = self._crash or error

    def _close_notes_before_exit(self) -> None:
        """Close the notes in the thread of `run`; called before another thread exits the process."""
        self.crash(ForeseenExit())
        self._closed.wait(LEAVE_S)

    def on_assigned(self, notes: Mapping[TopicPartition, str]) -> None:
        """See `PartitionListener`."""
        for topic_partition, note in notes.items():
            self._ledger.open(topic_partition)
            self._topic_partitions.add(topic_partition)
            if suspects := find_suspects(note, self._process):
                self._isolation.add_suspects(topic_partition, suspects)
                log.warning(
                    "a worker crashed; its records are processed alone",
                    topic=topic_partition.topic,
                    partition=topic_partition.partition,
                    first_offset=suspects.first,
                    records=suspects.until - suspects.first,
                    crashes=len(suspects.crashed),
                )
        log.info("partitions assigned", partitions=_list_numbers(notes))

    def on_revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `PartitionListener`: finish started records, remove the others, commit and close the notes.

        After a crash nothing more is finished or committed. Partitions that a stalled worker leaves unfinished keep
        their open notes, as after a crash: a record of them may have stalled it.
        """
        self._drop_waiting(topic_partitions)
        if self._crash is None:
            if not self._ledger.wait_empty(topic_partitions, self._settings.revoke_s):
                log.warning("some records did not finish in time; the next owner starts them again")
            ranges = self._ledger.offset_ranges(topic_partitions)
            if not self._commit({each: found.offset for each, found in ranges.items()}):
                log.warning("the last offsets were not committed; the next owner repeats the records behind them")
        unfinished = self._ledger.find_unfinished(topic_partitions) if self._stalled else set()
        self._close_notes(set(topic_partitions) - unfinished)
        self._release(topic_partitions)
        log.info("partitions revoked", partitions=_list_numbers(topic_partitions))

    def on_lost(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `PartitionListener`."""
        self._drop_waiting(topic_partitions)
        self._release(topic_partitions)
        log.warning("partitions lost to another worker", partitions=_list_numbers(topic_partitions))

    def on_expired(self, topic_partition: TopicPartition, first: int, until: int) -> None:
        """See `PartitionListener`."""
        place = {"topic": topic_partition.topic, "partition": topic_partition.partition}
        if until < first:
            log.warning("an offset is past the end of its partition", offset=first, continues_at=until, **place)
            return
        log.warning("requests expired before they were read", first_offset=first, last_offset=until - 1, **place)
        self._metrics.records_expired.labels(topic=topic_partition.topic).inc(until - first)

    def _run_once(self) -> None:
        room = self._settings.max_in_flight_images - self._ledger.images
        # The client needs time within `poll` to complete a rebalance.
        timeout_s = 0.0 if self._alone else POLL_S
        most = MAX_SUSPECTED_RECORDS if self._isolation.suspect_partitions else MAX_POLL_RECORDS
        for record in self._source.poll(timeout_s, max(1, min(most, room))):
            self._receive(record)
        self._state.polled()
        if self._crash:
            raise self._crash
        self._start_records()
        self._commit_regularly()
        self._pause_or_resume()
        self._report()

    def _receive(self, record: Record) -> None:
        self._metrics.records_received.labels(topic=record.topic).inc()
        self._metrics.record_bytes_received.inc(record.size)
        self._isolation.add(self._ledger.add(record))

    def _start_records(self) -> None:
        """Start all records but suspects, or one suspect alone; see `scorer.stream.isolation`."""
        if (self._alone and not self._finish_alone(self._alone)) or not self._close_note_of_done():
            return
        others, next_alone = self._isolation.split_waiting()
        if (self._others_next or not next_alone) and not self._start(others):
            return
        self._others_next = not next_alone
        if not next_alone:
            return
        if self._ledger.images > len(self._isolation):
            self._ledger.wait_fewer(self._ledger.images, POLL_S)  # others are in flight
        else:
            self._start_alone(self._isolation.choose_next(next_alone))

    def _start(self, entries: Collection[InFlight]) -> bool:
        """Start records together; return whether all are started."""
        for entry in entries:
            if not (self._ledger.has_note(entry) or self._write_open_notes()):
                return False
            self._isolation.start(entry)
            self._pipeline.submit(entry)
        return True

    def _start_alone(self, entry: InFlight) -> None:
        """Start a suspect when nothing else is in flight, after the notes state that."""
        topic_partition, offset = entry.record.topic_partition, entry.record.offset
        in_flight = {topic_partition: self._isolation.remaining_suspects(topic_partition, offset)}
        committed = self._ledger.committed_ranges({topic_partition})[topic_partition].offset
        if committed < offset and not self._commit(self._ledger.uncommitted()):  # its note must not pass this
            return
        if not self._write_notes(in_flight, self._topic_partitions - {topic_partition}):
            return
        crashes = len(self._isolation.crashed_with(topic_partition, offset))
        self._isolation.start_alone(entry)
        if crashes >= MAX_CRASHES:
            message = f"{crashes} workers crashed while they processed this record, {crashes - 1} of them with no other"
            self._pipeline.reject(entry, DeadLetterCode.KILLS_WORKER, message, attempts=crashes)
        else:
            self._pipeline.submit(entry, alone=True)
        self._metrics.isolated_records.inc()
        self._alone = entry

    def _finish_alone(self, entry: InFlight) -> bool:
        """Return whether the isolated record is finished."""
        if not self._ledger.wait_finished(entry, POLL_S):
            return False
        self._alone, self._done_alone, self._others_next = None, entry, True
        if not self._close_note_of_done():  # a later crash must not be counted for this record
            self._close_notes({entry.record.topic_partition})
        return True

    def _close_note_of_done(self) -> bool:
        """Commit the finished isolated record and close its note; return whether both are done."""
        if self._done_alone and self._commit(self._ledger.uncommitted()):
            topic_partition = self._done_alone.record.topic_partition
            if self._close_notes({topic_partition}):
                self._done_alone = None
        return self._done_alone is None

    def _write_open_notes(self) -> bool:
        """Write open notes for records that are or soon will be in flight; suspects get theirs when they start."""
        without_note = [each for each in self._ledger.without_note() if each not in self._isolation.suspect_partitions]
        ranges = self._ledger.committed_ranges(without_note).items()
        return self._write_notes({each: OffsetRange(found.offset, found.until + NOTED_AHEAD) for each, found in ranges})

    def _close_notes(self, topic_partitions: Collection[TopicPartition]) -> bool:
        """Write closed notes, which keep remaining suspects; return whether they are stored."""
        return self._write_notes({}, topic_partitions)

    def _write_notes(
        self, in_flight: Mapping[TopicPartition, OffsetRange], closed: Collection[TopicPartition] = ()
    ) -> bool:
        """Write open notes for `in_flight` and closed notes for `closed`; return whether they are stored."""
        done = self._ledger.committed_ranges(closed)
        for topic_partition in done.keys() & self._isolation.suspect_partitions:
            done[topic_partition] = self._isolation.remaining_suspects(topic_partition, done[topic_partition].offset)
        notes: dict[TopicPartition, str] = {}
        for topic_partition, (first, until) in {**done, **in_flight}.items():
            crashed = self._isolation.crashed_with(topic_partition, first)
            notes[topic_partition] = str(CrashNote(topic_partition in in_flight, first, until, self._process, crashed))
        try:
            if notes:
                self._source.write_notes(notes)
        except BrokerUnavailable as error:
            log.warning("crash notes were not stored; retrying", error=str(error))
            return False
        self._ledger.mark_noted(
            {topic_partition: offset_range.until for topic_partition, offset_range in in_flight.items()}
            | dict.fromkeys(done, -1)
        )
        return True

    def _commit(self, offsets: Mapping[TopicPartition, int], *, skipped: bool = False) -> bool:
        """Commit offsets, unless transactions have stored them; return whether they are stored."""
        if (self._exactly_once and not skipped) or not offsets:
            return True
        try:
            self._source.commit(offsets)
        except BrokerUnavailable as error:
            log.warning("a commit failed; retrying", error=str(error))
            return False
        self._ledger.committed(offsets)
        return True

    def _commit_regularly(self) -> None:
        if time.monotonic() >= self._commit_at_s:
            self._commit(self._ledger.uncommitted())
            self._commit_at_s = time.monotonic() + COMMIT_EVERY_S

    def _pause_or_resume(self) -> None:
        """Pause all partitions while a budget is used up, and those with a waiting suspect; resume the others."""
        bytes_used = self._ledger.bytes / self._settings.max_in_flight_bytes
        images_used = self._ledger.images / self._settings.max_in_flight_images
        used = max(bytes_used, images_used)
        if used >= 1 and not self._over_budget:
            self._over_budget = True
            reason = "bytes" if bytes_used >= 1 else "images"
            reason = "broker" if self._result_producer.waiting else "backend" if self._engine_waits() else reason
            self._metrics.pauses.labels(reason=reason).inc()
        elif used < RESUME_BELOW:
            self._over_budget = False
        paused = set(self._topic_partitions if self._over_budget else self._isolation.split_waiting()[1])
        self._source.pause(paused - self._paused)
        self._source.resume(self._paused - paused)
        self._paused = paused
        self._metrics.paused.set(self._over_budget)

    def _report(self) -> None:
        self._metrics.in_flight_images.set(self._ledger.images)
        self._metrics.in_flight_bytes.set(self._ledger.bytes)
        now_s = time.monotonic()
        if now_s < self._report_at_s:
            return
        self._report_at_s = now_s + REPORT_EVERY_S
        # Offsets without a request at a partition's end are committed, so that the group's lag reaches 0.
        self._commit(self._ledger.skip(self._source.skipped()), skipped=True)
        lags = self._source.lag()
        for topic_partition in (topic_partition for topic_partition, records in lags.items() if not records):
            self._isolation.note_end_reached(topic_partition)
        set_by_partition(self._metrics.lag_records, lags)
        set_by_partition(self._metrics.transaction_open_seconds, self._source.blocked_s())
        oldest_ms, unknown_s = self._ledger.oldest_timestamp_ms(), math.nan if self._ledger.images else 0.0
        self._metrics.lag_seconds.set(max(0.0, time.time() - oldest_ms / 1000) if oldest_ms else unknown_s)
        if self._policies.reload_if_changed():
            self._metrics.policy_reloads.inc()
        self._metrics.policy_refused.set(self._policies.refused)

    def _drain(self) -> None:
        """Start nothing more; finish started records within the deadline, as a member of the group."""
        log.info("leaving the group; finishing records in flight", images=self._ledger.images)
        deadline_s = time.monotonic() + self._settings.drain_s
        self._drop_waiting(self._topic_partitions)
        self._source.pause(self._topic_partitions)
        started = self._ledger.images
        while time.monotonic() < deadline_s and not self._ledger.wait_empty(self._topic_partitions, 0):
            if self._crash:
                raise self._crash
            self._source.poll(POLL_S, 1)
            self._state.polled()
            self._commit_regularly()
        unavailable = self._result_producer.waiting or self._engine_waits()
        self._stalled = bool(started) and self._ledger.images == started and not unavailable
        if self._stalled:
            log.error("no record in flight finished within the drain; this counts as a crash", images=started)
        self._source.close(timeout_s=self._settings.revoke_s)
        log.info("left the group")

    def _drop_waiting(self, topic_partitions: Collection[TopicPartition]) -> None:
        self._ledger.remove_unstarted(self._isolation.remove(topic_partitions))

    def _release(self, topic_partitions: Collection[TopicPartition]) -> None:
        self._ledger.close(topic_partitions)
        if self._alone and self._alone.record.topic_partition in topic_partitions:
            self._alone = None
        if self._done_alone and self._done_alone.record.topic_partition in topic_partitions:
            self._done_alone = None
        for topic_partition in topic_partitions:
            self._topic_partitions.discard(topic_partition)
            self._paused.discard(topic_partition)
            self._isolation.clear_suspects(topic_partition)
            self._metrics.forget(topic_partition)

    def _on_broker_outage(self, error: str | None) -> None:
        if error is None:
            log.info("the broker accepts answers again")
        else:
            self._metrics.backend_retries.labels(backend="broker").inc()
            log.warning("the broker does not accept answers; retrying", error=error)


def _list_numbers(topic_partitions: Collection[TopicPartition]) -> list[int]:
    return sorted(topic_partition.partition for topic_partition in topic_partitions)
