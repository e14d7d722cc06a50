"""`unlensed score` and `unlensed scan` on files whose faces are not given, beside the slowest of their stages alone.

Faces are found in the sandbox, on all cores; then the engine decodes, cuts and embeds. A rehearsal has the starter
bundle and its engine on the CPU. The rate of a scan is from its first image to the commit of its last shard.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from bundles import make_gpu_bundle
from clock import time_wall
from networks import RESNET
from part import ROOT, Part
from photographs import encode_faces, make_photographs

from ingest.probe import EncodedFace, probe_image
from scorer.bundle.bundle import read_bundle
from scorer.local_scorer import LocalScorer
from scorer.settings import Settings

THREADS = len(os.sched_getaffinity(0))


def measure_stages(part: Part, scorer: LocalScorer, faces: list[EncodedFace]) -> dict[str, float]:
    """Return images a second of each stage alone."""
    files = [face.data for face in faces]
    embedders = (scorer.embedder, scorer.embedder.share())
    size = scorer.settings.batch_images

    def find() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda data: scorer.sandbox.detect(data, probe_image(data)), files))

    def embed(number: int) -> None:
        for start in range(0, len(faces), size):
            embedders[number].embed(faces[start : start + size])

    def embed_all() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(embed, range(2)))

    rates = {}
    for name, work, count in (("faces found, all cores", find, 1), ("engine, two threads", embed_all, 2)):
        work()
        rates[name] = count * len(files) / time_wall(work, part.device, part.choose(3, 1))
        part.record(f"jobs: {name}", rates[name], "images/s")
    return rates


def run_scan(bundle: Path, manifest: Path, out: Path, images: int) -> float:
    """Return the images a second of a scan.

    Raises:
        ModuleNotFoundError: a package of the extra `scan` is missing.
        RuntimeError: it failed.
    """
    if find_spec("pyarrow") is None:
        message = "scan"
        raise ModuleNotFoundError(message, name="pyarrow")
    command = [sys.executable, "-c", "from scorer.commands.main import main; main()", "scan", str(manifest)]
    command += ["--uri-column=uri", f"--bundle={bundle}", f"--out={out}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if answer.returncode:
        message = f"the scan ended with {answer.returncode}: {answer.stderr[-400:]}"
        raise RuntimeError(message)
    spells = [spell for path in (out / "_stats").iterdir() for spell in json.loads(path.read_bytes())["spells"]]
    began, ended = (
        choose(datetime.fromisoformat(spell[key]) for spell in spells)
        for choose, key in ((min, "started_at"), (max, "finished_at"))
    )
    return images / (ended - began).total_seconds()


def state(part: Part, job: str, name: str, rate: float, rates: dict[str, float]) -> None:
    """State a job's rate and its share of the slowest stage."""
    part.record(f"jobs: {job}, {name}", rate, "images/s", ceiling=min(rates.values()))
    part.record(f"{job}: share of the slowest stage alone", 100 * rate / min(rates.values()), "%")


def measure(part: Part) -> None:
    """State the stages, then both jobs."""
    bundle = part.choose(
        partial(make_gpu_bundle, part, RESNET, "fp16"), partial(read_bundle, ROOT / "model_repository")
    )()
    folder, distinct, repeats = part.scratch / "photographs", *part.choose((256, 16), (12, 2))
    folder.mkdir()
    requests = make_photographs(folder, distinct)
    faces = encode_faces(requests, bundle.model.preprocess)
    faces = [replace(face, info=replace(face.info, sound=True)) for face in faces]  # as after the detector
    requests = [request.model_copy(update={"faces": None}) for request in requests]
    with closing(LocalScorer(Settings(bundle=bundle.folder))) as scorer:
        part.note(f"{scorer.engine.name}: {scorer.engine.why}")
        rates = measure_stages(part, scorer, faces)

        def score() -> None:
            failed = sum(result.score is None for result in scorer.score(requests * repeats))
            if failed:
                part.note(f"{failed} of {repeats * distinct} photographs got no score")

        with part.measure_energy("unlensed score", repeats * distinct):
            seconds = time_wall(score, part.device, 1)
    state(part, "unlensed score", "files to results", repeats * distinct / seconds, rates)
    with part.attempt("unlensed scan"):
        archive = part.scratch / "archive"
        archive.mkdir()
        for number in range(repeats * distinct):
            (archive / f"{number:06d}.jpg").hardlink_to(folder / f"{number % distinct:05d}.jpg")
        lines = [json.dumps({"uri": path.as_uri()}) + "\n" for path in sorted(archive.iterdir())]
        manifest = part.scratch / "manifest.jsonl"
        manifest.write_text("".join(lines))
        rate = run_scan(bundle.folder, manifest, part.scratch / "run", len(lines))
        state(part, "unlensed scan", "files to shards", rate, rates)
