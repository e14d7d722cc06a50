"""`make bench`: the figures of scorer/README.md, measured on this machine in one run.

Prints, never asserts. Every rate stands beside the limit it could reach: `cores / sum of the stages'
core-seconds per image`, where each stage (decode and crop, engine, mixture) is measured alone, in
CPU time over all threads, so that a stage that waits is not mistaken for one that works.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
from mixture_speed import mixture_rows
from photographs import encode_faces, make_photographs
from resnet_bundle import make_resnet_bundle
from rich.console import Console
from rich.table import Table

from ingest.dali import FaceCropper
from ingest.spec import PreprocessSpec
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.openvino import OpenVinoExtractor
from scorer.local_scorer import LocalScorer
from scorer.messages import ScoreRequest
from scorer.mixture import log_likelihood
from scorer.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
STAGE_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage alone: core-seconds of CPU and seconds of wall time per image."""

    name: str
    core_s: float
    wall_s: float


def measure(name: str, work: Callable[[], object], images: int) -> Stage:
    """Run `work` once to warm up and three times with a measurement; return the fastest."""
    work()
    best = min((_once(work) for _ in range(3)), key=lambda times: times[1])
    return Stage(name, best[0] / images, best[1] / images)


def _once(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_stages(bundle: Bundle, requests: list[ScoreRequest], threads: int) -> list[Stage]:
    """Measure reading, probing, decoding and cropping; the engine; and the mixture, each alone."""
    spec = bundle.model.preprocess
    cropper = FaceCropper(spec, threads, 16)

    def cut() -> list[np.ndarray]:
        return cropper.crop(encode_faces(requests, spec))  # type: ignore[return-value]  # every picture is intact

    crops = cut()
    extractor = OpenVinoExtractor(bundle.extractor, bundle.manifest.feature_size, threads)
    features = np.zeros((len(crops), bundle.manifest.feature_size), np.float32)

    def embed() -> None:
        extractor.start(crops, range(len(crops)), features)
        extractor.wait()

    embed()
    return [
        measure("read, decode, crop", cut, len(requests)),
        measure("engine", embed, len(requests)),
        measure("mixture", lambda: log_likelihood(features, bundle.model.mixture), len(requests)),
    ]


def measure_end_to_end(scorer: LocalScorer, requests: list[ScoreRequest]) -> float:
    """Return images per second from files with given boxes to results."""
    work = lambda: sum(1 for _ in scorer.score(requests))  # noqa: E731 - one line of work
    return 1 / measure("all", work, len(requests)).wall_s


def measure_memory(scorer: LocalScorer, requests: list[ScoreRequest], images: int) -> tuple[float, float, float]:
    """Return resident MiB, of all processes, after 500 images, at the end, and the largest relative change between."""
    process, sizes = psutil.Process(), []
    endless: Iterator[ScoreRequest] = (request for _ in range(images) for request in requests)
    for number, _ in enumerate(scorer.score(islice(endless, images)), 1):
        if number >= 500 and number % 50 == 0:
            sizes.append(sum(each.memory_info().rss for each in (process, *process.children())) / 2**20)
    return sizes[0], sizes[-1], max(abs(size / sizes[0] - 1) for size in sizes)


def main() -> None:
    """Print the whole table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-images", type=int, default=5000)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    console = Console()
    table = Table(
        "bundle", "stage", "core-ms / image", "images/s", "of the limit", title=f"given boxes, {threads} cores"
    )
    with tempfile.TemporaryDirectory() as scratch:
        photographs = Path(scratch) / "photographs"
        photographs.mkdir()
        requests = make_photographs(photographs, STAGE_IMAGES)
        resnet = make_resnet_bundle(
            ROOT / "model_repository", Path(scratch) / "resnet", encode_faces(requests, PreprocessSpec())
        )
        for folder in (ROOT / "model_repository", resnet):
            bundle = read_bundle(folder)
            scorer = LocalScorer(Settings(bundle=folder, threads=threads))
            stages = measure_stages(bundle, requests, threads)
            limit = threads / sum(stage.core_s for stage in stages)
            for stage in stages:
                table.add_row(
                    bundle.manifest.bundle_id, stage.name, f"{stage.core_s * 1000:.2f}", f"{1 / stage.wall_s:.0f}", ""
                )
            achieved = measure_end_to_end(scorer, requests)
            binding = max(stages, key=lambda stage: stage.core_s).name
            table.add_row(bundle.manifest.bundle_id, "limit", "", f"{limit:.0f}", f"binding: {binding}")
            table.add_row(
                bundle.manifest.bundle_id,
                "end to end",
                "",
                f"{achieved:.0f}",
                f"{achieved / limit:.0%}",
                end_section=True,
            )
        console.print(table)
        console.print(mixture_rows())
        scorer = LocalScorer(Settings(bundle=ROOT / "model_repository", threads=threads))
        first, last, change = measure_memory(scorer, requests, options.memory_images)
        console.print(
            f"memory over {options.memory_images} images: {first:.0f} MiB after 500, {last:.0f} MiB at the end, "
            f"largest change {change:.1%}"
        )


if __name__ == "__main__":
    main()
