"""Each exit code of a worker with records in flight: which count as a crash."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ingest.detector_pool import DetectorUnusable, SandboxBroken
from scorer.commands.command_line import find_exit
from scorer.errors import (
    BackendUnavailable,
    BrokerRefused,
    BrokerUnavailable,
    BundleMismatch,
    Exit,
    PolicyError,
    SettingsError,
)
from scorer.stream.crash_notes import CrashNote
from scorer.stream.service import NOTED_AHEAD
from tests.scorer.stream.service_bench import PLACE, Bench, bench, request_for

__all__ = ["bench", "request_for"]

# Raised while records are in flight: the exit code, and whether the records become suspects.
ERRORS: list[tuple[Exception, Exit, bool]] = [
    (BundleMismatch("another engine"), Exit.BAD_DATA, False),
    (SandboxBroken("no process can be started"), Exit.BAD_DATA, False),
    (DetectorUnusable("no weights"), Exit.BAD_DATA, False),
    (BackendUnavailable("Triton is away"), Exit.TRY_AGAIN, False),
    (BrokerUnavailable("no broker"), Exit.TRY_AGAIN, False),
    (BrokerRefused("no right"), Exit.BAD_CONFIGURATION, False),
    (PolicyError("no such policy"), Exit.BAD_CONFIGURATION, False),
    (SettingsError("a contradiction"), Exit.BAD_CONFIGURATION, False),
    (RuntimeError("a defect"), Exit.CRASHED, True),
    (MemoryError(), Exit.CRASHED, True),
    (OSError("an image file is truncated"), Exit.TRY_AGAIN, True),  # decoders and stores also raise it for their input
]
# Actions of a thread that exits the process: the exit code, and whether the records become suspects.
ACTS: list[tuple[str, int, bool]] = [
    ("Watchdog(0.1, 'transaction').__enter__(); time.sleep(60)", Exit.TRY_AGAIN, False),
    ("exit_without_gpu(RuntimeError('uncorrectable ECC error encountered'))", Exit.GPU_LOST, False),
    ("exit_without_gpu(RuntimeError('no CUDA-capable device is detected'))", Exit.GPU_LOST, False),
    ("exit_without_gpu(RuntimeError('an illegal memory access was encountered'))", Exit.GPU_LOST, True),
    ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, True),
    ("os.abort()", -signal.SIGABRT, True),
]
NOTHING_IN_FLIGHT = {Exit.USAGE, Exit.FAILURES, Exit.INTERRUPTED}  # before the first record, or of other commands

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from scorer.bundle.bundle import read_bundle
from scorer.engines.cuda.faults import exit_without_gpu
from scorer.stream.memory_broker import MemorySource
from scorer.stream.watchdog import Watchdog
from tests.scorer.stream.service_bench import FACE, Bench

class Printing(MemorySource):
    def write_notes(self, notes):
        for note in notes.values():
            print(note, flush=True)

def act(request, max_bytes):
    {act}

bench = Bench(read_bundle(Path("model_repository")), None, act, source=Printing)
bench.send({{"request_id": "a", "content_id": "c", "image": {{"bytes": ""}}, "faces": [FACE]}})
bench.service().run()
"""


@pytest.mark.parametrize(("error", "code", "counts"), ERRORS, ids=lambda each: type(each).__name__)
def test_errors_count_unless_they_are_known_refusals(
    bench: Bench, request_for: Callable[..., dict[str, Any]], error: Exception, code: Exit, *, counts: bool
) -> None:
    """A refusal leaves a closed note; an error that a record may cause an open one."""

    def fail(*_: object) -> bytes:
        raise error

    if isinstance(error, MemoryError):  # of the engine, on a thread of its own
        bench.embedder = SimpleNamespace(embed=fail)
    else:
        bench.read = fail
    bench.send(request_for("a"))
    with pytest.raises(type(error)):
        bench.service().run()
    assert find_exit(error) is code
    note = CrashNote.parse(bench.broker.notes[PLACE])
    assert (note.open, note.first, note.until, note.crashed) == (counts, 0, 1 + NOTED_AHEAD * counts, ())
    assert bench.broker.committed.get(PLACE, 0) == 0
    assert not bench.broker.topics["unlensed.results"]


@pytest.mark.parametrize(("act", "code", "counts"), ACTS)
def test_exits_from_a_thread_count_unless_their_cause_is_known(
    root: Path, act: str, code: int, *, counts: bool
) -> None:
    """The watchdog and lost hardware close notes first; signals cannot."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(act=act)], cwd=root, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended.stderr
    note = CrashNote.parse(ended.stdout.splitlines()[-1])
    assert (note.open, note.first) == (counts, 0)


def test_every_exit_code_is_listed() -> None:
    """The tables above have each code; 0 is that of `test_service.py`."""
    judged = {code for _, code, _ in ERRORS} | {code for _, code, _ in ACTS if code > 0}
    assert judged | NOTHING_IN_FLIGHT | {Exit.DONE} == set(Exit)
