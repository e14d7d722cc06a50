"""`make bench`, third part: an archive scanned, beside other programs with the same images, weights and cores.

Prints, never asserts. `unlensed scan` runs as its users run it, a command of its own, and so does each rival
(`rivals.py`), one after the other. Rates and core-seconds are from the first image to the last answer (a scan's: its
last shard's commit); what comes before and after, loading above all and a scan's report, stands apart in seconds. The
limit is `bench.py`'s, measured just before each scan. Rivals run ResNet-50 at FP32, which a bundle runs at int8.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
from bench import ROOT, STAGE_IMAGES, measure_stages
from photographs import encode_faces, make_photographs
from resnet_bundle import make_resnet, make_resnet_bundle
from rich.console import Console
from rich.table import Table
from rivals import AUTHORS_BATCH, BATCH, Answer, Job
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits
from watched import Usage, run_watched

from ingest.spec import PreprocessSpec
from scorer.bundle.bundle import read_bundle
from scorer.messages import ScoreRequest

HERE = Path(__file__).resolve().parent
RIVALS = {
    "loop": f"the authors' loop: Pillow, torchvision, eager PyTorch in batches of {AUTHORS_BATCH}, scikit-learn",
    "dataloader": f"PyTorch DataLoader with a worker per core, batches of {BATCH}",
    "ray": f"Ray Data: map_batches with an actor per core, batches of {BATCH}",
    "daft": f"Daft: its own decode, crop and resize, batches of {BATCH}",
}
PACKAGES = {"ray": "ray", "daft": "daft"}
# No other program accesses the network.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1", "DAFT_PROGRESS_BAR": "0"}


@dataclass(frozen=True, slots=True)
class Row:
    """One program's run; log-likelihoods in nats by photograph."""

    name: str
    precision: str
    usage: Usage
    answer: Answer
    photographs: Sequence[str]

    @property
    def rate(self) -> float:
        """Images per second of work."""
        return len(self.photographs) / (self.answer.ended_s - self.answer.began_s)

    @property
    def core_s(self) -> float:
        """Core-seconds per image of work."""
        return self.usage.cpu_between(self.answer.began_s, self.answer.ended_s) / len(self.photographs)

    @property
    def around_s(self) -> tuple[float, float]:
        """Seconds before the first image and after the last answer."""
        return self.answer.began_s - self.usage.began_s, self.usage.ended_s - self.answer.ended_s

    def differ_nats(self, other: "Row") -> float:
        """Return the median distance between two programs' log-likelihoods of the photographs that both have."""
        mine, theirs = (dict(zip(row.photographs, row.answer.log_likelihoods, strict=True)) for row in (self, other))
        return median(abs(mine[name] - theirs[name]) for name in mine.keys() & theirs.keys())


def fill_archive(folder: Path, requests: Sequence[ScoreRequest], images: int) -> Path:
    """Link the photographs repeatedly under `images` names, and write a manifest of them with their boxes."""
    folder.mkdir()
    manifest = folder / "manifest.jsonl"
    with manifest.open("w", encoding="utf-8") as file:
        for number in range(images):
            request = requests[number % len(requests)]
            path = folder / f"{number:06d}.jpg"
            path.hardlink_to(folder.parent / "photographs" / request.request_id)
            faces = [face.model_dump() for face in request.faces or ()]
            file.write(json.dumps({"uri": path.as_uri(), "faces": faces}) + "\n")
    return manifest


def run_scan(bundle: Path, manifest: Path, scratch: Path, threads: int, *, with_faces: bool = True) -> Row:
    """Scan the archive with a bundle; `with_faces` if the manifest states the faces."""
    manifest_facts, out = read_bundle(bundle).manifest, scratch / f"run-{bundle.name}"
    command = [sys.executable, "-c", "from scorer.commands.main import main; main()", "scan", str(manifest)]
    command += [
        "--uri-column=uri",
        *(["--faces-column=faces"] if with_faces else []),
        f"--threads={threads}",
        f"--bundle={bundle}",
        f"--out={out}",
    ]
    usage = run_watched(command, scratch / "scan.log", os.environ | {"PYTHONPATH": str(ROOT)}, ROOT)
    marks = [json.loads(path.read_bytes()) for path in (out / "_stats").iterdir()]
    spells = [spell for mark in marks for spell in mark["spells"]]
    results = pq.read_table(out / "results", columns=["uri", "log_likelihood"]).to_pydict()
    answer = Answer(
        min(datetime.fromisoformat(spell["started_at"]).timestamp() for spell in spells),
        max(datetime.fromisoformat(spell["finished_at"]).timestamp() for spell in spells),
        results["log_likelihood"],
    )
    name = f"unlensed scan, {manifest_facts.bundle_id}"
    return Row(name, manifest_facts.precision, usage, answer, results["uri"])


def run_rival(name: str, job: Job, scratch: Path) -> Row:
    """Run another program on a job."""
    task, answer = scratch / "job.json", scratch / f"{name}.json"
    task.write_text(json.dumps(asdict(job)))
    command = [sys.executable, str(HERE / "rivals.py"), name, str(task), str(answer)]
    usage = run_watched(command, scratch / f"{name}.log", os.environ | QUIET, scratch)
    found = Answer(**json.loads(answer.read_text()))
    return Row(RIVALS[name], "fp32", usage, found, [Path(path).as_uri() for path in job.paths])


def make_job(requests: Sequence[ScoreRequest], manifest: Path, images: int, bundle: Path, threads: int) -> Job:
    """Return the job of the other programs: the archive's first images, weights and mixture of the ResNet-50 bundle."""
    spec = PreprocessSpec()
    windows = [(w.left, w.top, w.width, w.height) for w in (face.window for face in encode_faces(list(requests), spec))]
    weights = manifest.parent / "resnet.safetensors"
    save_file(make_resnet().state_dict(), weights)
    return Job(
        paths=[str(manifest.parent / f"{number:06d}.jpg") for number in range(images)],
        windows=[windows[number % len(windows)] for number in range(images)],
        weights=str(weights),
        mixture=str(bundle / "mixture.npz"),
        mean=spec.mean,
        std=spec.std,
        size=spec.size,
        threads=threads,
    )


def add_row(table: Table, row: Row, limit: float, reference: Row | None) -> None:
    """Add a program to the table; `limit` in images per second."""
    before_s, after_s = row.around_s
    table.add_row(
        row.name,
        row.precision,
        str(len(row.photographs)),
        f"{row.rate:.1f}",
        f"{row.rate / limit:.0%}",
        f"{row.core_s * 1000:.1f}",
        f"{row.usage.peak_bytes / 2**20:.0f}",
        f"{before_s:.1f} + {after_s:.1f}",
        f"{row.differ_nats(reference):.1f}" if reference else "",
    )


def measure_limit(bundle: Path, requests: Sequence[ScoreRequest], threads: int) -> float:
    """Return the limit of this machine in images per second, as in `bench.py`."""
    return threads / sum(stage.core_s for stage in measure_stages(read_bundle(bundle), list(requests), threads))


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="images of the archive")
    parser.add_argument("--rival-images", type=int, default=320, help="first images that each other program scores")
    return parser.parse_args()


def measure(options: argparse.Namespace, scratch: Path, threads: int) -> tuple[Table, Mapping[str, float]]:
    """Return the table of all programs, and the limit by bundle."""
    columns = ("images", "images/s", "of the limit", "core-ms / image", "peak MiB", "s around", "nats apart")
    table = Table("program", "runs at", *columns, title=f"an archive with given boxes, {threads} cores")
    (scratch / "photographs").mkdir()
    requests = make_photographs(scratch / "photographs", min(STAGE_IMAGES, options.images))
    manifest = fill_archive(scratch / "archive", requests, options.images)
    starter = ROOT / "model_repository"
    resnet = make_resnet_bundle(starter, scratch / "resnet", encode_faces(requests, PreprocessSpec()))
    limits = {}
    for bundle in (starter, resnet):
        limit = measure_limit(bundle, requests, threads)
        row = run_scan(bundle, manifest, scratch, threads)
        limits[row.name] = limit
        add_row(table, row, limit, None)
    table.add_section()
    job = make_job(requests, manifest, min(options.rival_images, options.images), resnet, threads)
    for name, title in RIVALS.items():
        if name in PACKAGES and not find_spec(PACKAGES[name]):
            table.add_row(title, "not installed")
        else:
            add_row(table, run_rival(name, job, scratch), limit, row)
    return table, limits


def main() -> None:
    """Print the table."""
    options, threads = parse_options(), len(os.sched_getaffinity(0))
    with threadpool_limits(limits=1, user_api="blas"), tempfile.TemporaryDirectory() as scratch:
        table, limits = measure(options, Path(scratch), threads)
    console = Console()
    console.print(table)
    for name, limit in limits.items():
        console.print(
            f"the machine's limit for {name.removeprefix('unlensed scan, ')}: {limit:.0f} images/s", soft_wrap=True
        )
    console.print(
        "nats apart: the median distance of log-likelihoods to the scan's with the same network; peak MiB: of all "
        "processes together, pages that they share counted in each",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
