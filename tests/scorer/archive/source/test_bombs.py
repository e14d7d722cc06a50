"""No archive takes too much memory or CPU time, whatever sizes it states."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scorer.archive.source.bombs import BOMBS
from training.data.tars import TarPhotos

MAX_MIB, MAX_CPU_S = 512, 2
PROGRAM = """
import json, resource, sys, time
from collections import Counter
from pathlib import Path
from scorer.errors import SourceDamaged, UsageError
from scorer.archive.source.access import read_image_bytes
from scorer.archive.source.plan import open_plan, write_plan
from scorer.archive.source.sources import Archive
from scorer.settings import PayloadSettings
from ingest.reasons import Unscorable
import pyarrow.parquet, scorer.archive.source.tars

def used():
    # Not ru_maxrss, which starts at the value of the parent process.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int(peak.split()[1]) // 1024, children.ru_utime + children.ru_stime

path, folder = Path(sys.argv[1]), Path(sys.argv[2])
columns = {".csv": ("uri", None, None), ".jsonl": ("uri", None, "faces"), ".parquet": (None, "jpg", None)}
uri, data, faces = columns.get(path.suffix, (None, None, None))
if path.name == "lists.parquet":
    faces = "faces"
(idle, _), start_s, error_text, reasons, read = used(), time.process_time(), "", Counter(), 0
try:
    archive = Archive((str(path),), uri, data, faces)
    write_plan(folder, archive, PayloadSettings(), 1000)
    plan = open_plan(folder, 64 << 20)
    access = plan.grant_access(PayloadSettings())
    for index in range(plan.shard_count):
        for item in plan.read_items(plan.read_shard(index)):
            if path.suffix in {".parquet", ".tar"}:
                try:
                    read_image_bytes(item, access)
                    read += 1
                except Unscorable as failure:
                    reasons[failure.reason] += 1
except (SourceDamaged, UsageError) as error:
    error_text = f"{type(error).__name__}: {error}"
peak, children_s = used()
cpu_s = time.process_time() - start_s + children_s
print(json.dumps({"mib": peak - idle, "cpu_s": cpu_s, "error": error_text, "reasons": reasons, "read": read}))
"""
# The outcome of each bomb: a part of the error, or the refused images by reason.
OUTCOMES = {
    "values.parquet": {"too_many_bytes": 8},
    "dictionary.parquet": {"too_many_bytes": 1000},
    "page.parquet": {"too_many_bytes": 3},
    "footer.parquet": "its footer of",
    "lists.parquet": "values in one row group",
    "size.tar": "unexpected end of data",
    "name.tar": "a header of 1073741824 bytes",
    "pax.tar": "a header of 1073741824 bytes",
    "chain.tar": "several with more than",
    "globals.tar": "global headers with more than",
    "sparse.tar": "several with more than",
    "line.csv": "a row of more than",
    "row.csv": "a row of more than",
    "columns.csv": "",
    "line.jsonl": "more than 1048576 bytes in line 1",
    "faces.jsonl": "no usable faces",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path, name: str) -> None:
    """Each bomb has its outcome within 512 MiB above the idle process and 2 s of CPU."""
    path = tmp_path / name
    BOMBS[name](path)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, tmp_path / "plan"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    print(name, found)  # noqa: T201 - pytest shows it if the test fails
    outcome = OUTCOMES[name]
    if isinstance(outcome, str):
        assert outcome in found["error"]
    else:
        assert found["reasons"] == outcome
    assert found["mib"] < MAX_MIB
    assert found["cpu_s"] < MAX_CPU_S


@pytest.mark.parametrize("name", ["size.tar", "name.tar", "pax.tar", "chain.tar", "globals.tar"])
def test_training_refuses_the_same_tars(tmp_path: Path, name: str) -> None:
    """Training refuses the tars that a scan refuses, and names them."""
    BOMBS[name](tmp_path / name)
    with pytest.raises(ValueError, match=name):
        list(TarPhotos((tmp_path / name,)).list_photos())
