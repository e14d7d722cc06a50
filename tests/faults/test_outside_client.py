"""An outside client: what librdkafka sends is answered, while the worker is killed."""

import os
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.outside_client import OutsideProducer, OutsideReader, Sent, find_lag, set_option
from tests.faults.stage import Stage
from tests.faults.traffic import REQUESTS, make_request

KILLS = int(os.environ.get("UNLENSED_RESTARTS", "2"))
RECORDS = 400 * (KILLS + 1)
EVERY = 20  # one record that is no request for this many requests
BETWEEN_KILLS = 300  # answers: enough that no record is in flight at two kills
FINISH_S = 300
NOT_UTF8 = b"\xff\xfename"
ODD_TIMES_MS = (1, 253_402_300_800_000, 2**62)  # 1970, the year 10000, and beyond any calendar


def good(number: int, value: bytes) -> Sent:
    """Return a request in one of the forms that librdkafka sends."""
    forms = (
        Sent(value),
        Sent(value, b"k%d" % number),
        Sent(value, b"", [("absent", None), ("empty", b""), ("twice", b"1"), ("twice", None)]),
        Sent(value, b"\xff\x00", [(NOT_UTF8, b"\xff"), (b"", None)]),
        *(Sent(value, timestamp_ms=timestamp_ms) for timestamp_ms in ODD_TIMES_MS),
    )
    return forms[number % len(forms)]


def hostile(number: int) -> Sent:
    """Return one of the records that are no requests, each with its own key."""
    key = b"hostile %d" % number
    forms = (
        Sent(None, key),
        Sent(b"", key),
        Sent(b"no JSON \xff", key, [(NOT_UTF8, None)]),
        Sent(b'{"request_id": "x"}', key, [("absent", None)], timestamp_ms=2**62),
        Sent(b"[" * 100_000, key),
        Sent(b"x", key, [("", None)] * 1000),
        Sent(b'{"request_id": NaN, "\\ud800": 1e999}', key, [("unlensed-error-code", b"not_json")]),
    )
    return forms[number % len(forms)]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_what_librdkafka_sends_is_answered(stage: Stage, delivery: str, say: Callable[[str], None]) -> None:
    """Every request has a result, every other record one dead letter, and the group reaches the end of the topic."""
    stage.supervise_triton()
    set_option(stage.kafka.bootstrap, REQUESTS, "message.timestamp.after.max.ms", 2**63 - 1)  # as before Kafka 4
    producer, reader = OutsideProducer(stage.kafka.bootstrap), OutsideReader(stage.kafka.bootstrap)
    worker = stage.worker("worker", stream__delivery=delivery)
    samples = stage.traffic.samples
    wanted = [f"r{number}" for number in range(RECORDS)]
    bad = [hostile(number) for number in range(RECORDS // EVERY)]
    started_s = time.monotonic()
    worker.start()
    for part in range(KILLS + 1):
        numbers = range(part * RECORDS // (KILLS + 1), (part + 1) * RECORDS // (KILLS + 1))
        records = [good(number, make_request(wanted[number], samples[number % len(samples)])) for number in numbers]
        for number in numbers:
            if number % EVERY == 0:
                records.insert(number % len(records), bad[number // EVERY])
        producer.send(records)
        if part < KILLS:
            aim = len(reader.verdict.answers) + BETWEEN_KILLS
            assert reader.read_until(lambda aim=aim: len(reader.verdict.answers) >= aim, FINISH_S)  # type: ignore[misc]
            assert worker.pid, worker.read_log()[-2000:]
            worker.kill()
            worker.start()
    every_letter = {(record.key, record.value) for record in bad}
    reader.read_until(lambda: not reader.verdict.missing(wanted) and reader.dead.keys() >= every_letter, FINISH_S)
    reader.read_until(lambda: find_lag(stage.kafka.bootstrap, "unlensed") == 0, 10)
    lag, pid, log = find_lag(stage.kafka.bootstrap, "unlensed"), worker.pid, worker.read_log()[-2000:]
    producer.close()
    reader.close()
    verdict = reader.verdict
    say(
        f"librdkafka, {delivery}: {KILLS} kills, {RECORDS} requests and {len(bad)} other records in "
        f"{time.monotonic() - started_s:.0f} s: {len(verdict.missing(wanted))} lost, {len(verdict.conflicting)} "
        f"conflicting, {verdict.duplicates} answered twice, {len(reader.dead)} dead letters, lag {lag}"
    )
    assert pid, log
    assert not verdict.missing(wanted)
    assert not verdict.conflicting
    assert set(verdict.answers) == set(wanted)
    assert reader.dead.keys() == every_letter, sorted(every_letter ^ reader.dead.keys(), key=str)[:3]
    if delivery == "exactly_once":
        assert verdict.duplicates == 0
        assert reader.dead == Counter(every_letter)
    assert lag == 0
    assert worker.stop() == 0
