"""A record that kills the worker: it becomes a dead letter, and all other records are answered."""

from collections.abc import Callable

from kafka import KafkaProducer

from tests.faults.stage import Stage
from tests.faults.traffic import REQUESTS, make_request

# The real service with a decoder that one request kills, as a native crash would.
PROGRAM = """
import os, signal
from scorer.stream import pipeline
locate = pipeline.locate_faces
def locate_or_die(request, *arguments, **options):
    if request.request_id == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return locate(request, *arguments, **options)
pipeline.locate_faces = locate_or_die
from scorer.commands.main import main
main()
"""
MAX_STARTS = 10


def test_a_record_that_kills_becomes_a_dead_letter(stage: Stage, say: Callable[[str], None]) -> None:
    """After three crashes the record is a dead letter with the code `kills_worker`; all others are answered."""
    stage.supervise_triton()
    stage.traffic.send(100)
    producer = KafkaProducer(bootstrap_servers=stage.kafka.bootstrap)
    producer.send(REQUESTS, value=make_request("poison", stage.traffic.samples[0]), key=b"k1")
    producer.flush(30)
    producer.close()
    stage.traffic.send(100)
    worker = stage.worker("worker", PROGRAM)
    everything = stage.traffic.expected() | {"poison"}
    starts = 0
    while stage.results.verdict.missing(everything) and starts < MAX_STARTS:
        worker.start()
        starts += 1
        while worker.pid and stage.results.verdict.missing(everything):
            stage.results.read(0.2)
    verdict = stage.results.verdict
    say(f"a record that kills: {starts - 1} crashes, {dict(verdict.dead)}, {verdict.duplicates} duplicates")
    assert not verdict.missing(everything)
    assert verdict.dead == {"kills_worker": 1}
    assert starts == 4
    assert worker.stop() == 0
