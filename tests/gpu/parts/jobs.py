"""`unlensed score`, `scan` and `serve` on images whose faces are not given, beside the slowest of their stages alone.

Faces are found in the sandbox, on all cores; then the engine decodes, cuts and embeds. A rehearsal has the starter
bundle and its engine on the CPU. The rate of a scan is from its first image to the commit of its last shard. That of
the stream is of the last three quarters of its results, by the stamps of a broker on the same machine, which also has
the requests before the worker starts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bundles import make_gpu_bundle
from clock import time_wall
from networks import RESNET
from part import ROOT, Part
from photographs import encode_faces, make_photographs

from ingest.probe import EncodedFace, probe_image
from scorer.bundle.bundle import read_bundle
from scorer.local_scorer import LocalScorer
from scorer.messages import ScoreRequest
from scorer.settings import Settings

THREADS = len(os.sched_getaffinity(0))


def measure_stages(part: Part, scorer: LocalScorer, faces: list[EncodedFace]) -> float:
    """Return images a second of the slower stage alone."""
    files, size = [face.data for face in faces], scorer.settings.batch_images

    def find() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda data: scorer.sandbox.detect(data, probe_image(data)), files))

    def embed() -> None:
        with ThreadPoolExecutor(2) as pool:
            for some in [faces[start : start + size] for start in range(0, len(faces), size)]:
                list(pool.map(lambda engine, some=some: engine.embed(some), engines))

    engines, rates = (scorer.embedder, scorer.embedder.share()), []
    for name, work, count in (("faces found, all cores", find, 1), ("engine, two threads", embed, 2)):
        work()
        rates.append(count * len(files) / time_wall(work, part.device, part.choose(3, 1)))
        part.record(f"jobs: {name}", rates[-1], "images/s")
    return min(rates)


def run_scan(bundle: Path, manifest: Path, out: Path) -> float:
    """Return the seconds of a scan.

    Raises:
        ModuleNotFoundError: a package of the extra `scan` is missing.
        RuntimeError: it failed.
    """
    if find_spec("pyarrow") is None:
        raise ModuleNotFoundError(name="pyarrow")
    command = [sys.executable, "-c", "from scorer.commands.main import main; main()", "scan", str(manifest)]
    command += ["--uri-column=uri", f"--bundle={bundle}", f"--out={out}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if answer.returncode:
        message = f"the scan ended with {answer.returncode}: {answer.stderr[-400:]}"
        raise RuntimeError(message)
    spells = [spell for path in (out / "_stats").iterdir() for spell in json.loads(path.read_bytes())["spells"]]
    ended = max(datetime.fromisoformat(spell["finished_at"]) for spell in spells)
    return (ended - min(datetime.fromisoformat(spell["started_at"]) for spell in spells)).total_seconds()


def run_stream(part: Part, bundle: Path, requests: Sequence[ScoreRequest], images: int) -> tuple[float, float]:
    """Return results a second of a worker, and records a second that a client only consumes.

    Raises:
        KafkaUnavailable: the broker does not start.
        ModuleNotFoundError: Java, the broker's jars or a package of the extra `stream` is missing.
        WorkerFailed: the worker does not start.
    """
    import topics  # noqa: PLC0415 - the other jobs need no client

    from deploy.local.kafka import KafkaServer, KafkaUnavailable  # noqa: PLC0415 - as above
    from deploy.local.worker import Worker  # noqa: PLC0415 - as above

    names = {"bundle": bundle, "stream__group": "jobs", "stream__requests": "jobs", "stream__results": "results"}
    try:
        broker = KafkaServer(part.scratch / "kafka")
    except KafkaUnavailable as error:
        raise ModuleNotFoundError(str(error), name="java") from error
    with broker as kafka:
        kafka.create_topic(topics.DEAD_LETTERS)
        kafka.create_topic("results", topics.PARTITIONS, **topics.STAMPED)
        topics.produce(kafka, "jobs", topics.write_values(requests), images)
        with Worker(part.scratch / "worker.log", names | {"kafka__bootstrap": kafka.bootstrap}) as worker:
            worker.wait_ready()
            with part.measure_energy("unlensed serve", images):
                topics.wait_answered(worker, images)
        results = topics.read_results(kafka, "results")
        unscored = sum(json.loads(result.value)["score"] is None for result in results)
        part.record("images of the stream without a score", unscored, "images", at_most=0)
        with closing(topics.answer_records(kafka, "jobs", "client", None)) as batches:
            next(batches)
            began_s, consumed = time.monotonic(), 0
            while consumed < images / 2:
                consumed += next(batches)
            client = consumed / (time.monotonic() - began_s)
    return topics.rate_of([result.timestamp_ms for result in results[images // 4 :]]), client


def measure(part: Part) -> None:
    """State the stages, then each job."""
    on_gpu = part.device == "cuda"
    bundle = make_gpu_bundle(part, RESNET, "fp16") if on_gpu else read_bundle(ROOT / "model_repository")
    folder, (distinct, repeats) = part.scratch / "photographs", part.choose((256, 16), (12, 2))
    folder.mkdir()
    given = make_photographs(folder, distinct)
    requests, images = [request.model_copy(update={"faces": None}) for request in given] * repeats, distinct * repeats
    faces = encode_faces(given, bundle.model.preprocess)
    faces = [replace(face, info=replace(face.info, sound=True)) for face in faces]  # as after the detector

    def state(job: str, what: str, rate: float, ceiling: float) -> None:
        part.record(f"jobs: {job}, {what}", rate, "images/s", ceiling=ceiling)
        part.record(f"{job}: share of the slowest stage alone", 100 * rate / ceiling, "%")

    with closing(LocalScorer(Settings(bundle=bundle.folder))) as scorer:
        part.note(f"{scorer.engine.name}: {scorer.engine.why}")
        slowest = measure_stages(part, scorer, faces)
        with part.measure_energy("unlensed score", images):
            results = list[Any]()
            seconds = time_wall(lambda: results.extend(scorer.score(requests)), part.device, 1)
    part.record("images without a score", sum(result.score is None for result in results), "images", at_most=0)
    state("unlensed score", "files to results", images / seconds, slowest)
    with part.attempt("unlensed scan"):
        lines = []
        for number, request in enumerate(requests):
            link = folder / f"{number}.link.jpg"
            link.hardlink_to(folder / request.content_id)
            lines.append(json.dumps({"uri": link.as_uri()}) + "\n")
        manifest = part.scratch / "manifest.jsonl"
        manifest.write_text("".join(lines))
        seconds = run_scan(bundle.folder, manifest, part.scratch / "run")
        state("unlensed scan", "files to shards", images / seconds, slowest)
    with part.attempt("unlensed serve"):
        rate, client = run_stream(part, bundle.folder, requests, images)
        part.record("jobs: records consumed, one thread", client, "images/s")
        state("unlensed serve", "records to results", rate, min(slowest, client))
