"""Encoded bytes to p-values as `unlensed` does it, beside its limit: the slowest of its stages, each measured alone.

The photographs are JPEGs of 640x480 to 1600x1200 with given boxes, as after the detector has found them sound: the work
of the GPU and around it, without a broker or a store (`jobs` has the whole jobs). A stream's batches are small and come
from memory; an archive's are large and come from files. Two scorers take turns, as in `scorer.local_scorer`.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from bundles import make_gpu_bundle
from clock import synchronise, time_device, time_wall
from networks import LITE, RESNET, draw_crops
from part import Part
from photographs import encode_faces, make_photographs

from ingest.dali_cuda import DeviceCropper
from ingest.device import Kind, load_array_module
from ingest.probe import EncodedFace, Limits
from scorer.bundle.bundle import Bundle
from scorer.decide import Policy
from scorer.engines.base import Embedder, FeatureBatch
from scorer.engines.cuda.embedder import CudaEmbedder
from scorer.engines.cuda.mixture import DeviceMixture
from scorer.engines.verify import verify_engine
from scorer.locate import LocatedImage, locate_faces
from scorer.messages import ImageSource, ScoreRequest, ScoreResult
from scorer.model import Model
from scorer.payloads.local_file import read_image
from scorer.pipeline import ScoringPipeline
from scorer.score import score_batch
from training.recipes import Precision

THREADS = len(os.sched_getaffinity(0))
FP16: Precision = "fp16"
FP32: Precision = "fp32"
Rates = dict[str, float]


def open_embedder(part: Part, bundle: Bundle) -> CudaEmbedder:
    """Return the engine that serves here; on a CPU the same steps as a rehearsal."""
    if part.device == "cuda":
        from scorer.engines.cuda.select import open_cuda_embedder  # noqa: PLC0415 - its engines need a GPU

        embedder, name, why = open_cuda_embedder(bundle, THREADS)
        part.note(f"{name}: {why}")
        return embedder
    from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine  # noqa: PLC0415 - as above

    engine = OnnxRuntimeEngine(bundle.extractor, bundle.manifest, "cpu", 16)
    return CudaEmbedder(bundle.model, engine, THREADS, "cpu")


def locate(request: ScoreRequest) -> LocatedImage:
    """Read and probe; the boxes are given, so that no detector is asked."""
    data = request.image.data or read_image(str(request.image.uri), Limits().max_bytes)
    return locate_faces(request, data, None, Limits(), Policy().min_face_px)  # type: ignore[arg-type]  # see above


def score_with_defaults(images: Sequence[LocatedImage], embedder: Embedder, model: Model) -> list[ScoreResult]:
    """Score a batch under the default policy."""
    return score_batch([(image, Policy()) for image in images], embedder, model)


def score_all(embedders: Sequence[CudaEmbedder], bundle: Bundle, requests: Iterable[ScoreRequest], batch: int) -> int:
    """Return how many requests were answered with a p-value."""
    scorers = [partial(score_with_defaults, embedder=each, model=bundle.model) for each in embedders]
    pipeline: ScoringPipeline[ScoreRequest] = ScoringPipeline(locate, scorers, threads=THREADS, batch_images=batch)
    return sum(done.result.faces[0].p_value is not None for done in pipeline.run(requests))


def rate_of(work: Callable[[], object], images: int, device: Kind, rounds: int = 5) -> float:
    """Return images a second of `work` by the wall clock, after one run to warm up."""
    work()
    return images / time_wall(work, device, rounds)


def in_two_threads(works: Sequence[Callable[[], object]]) -> None:
    """Run both at once."""
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result()


class CannedEmbedder:
    """An engine with constant features, so that only the work on the host is measured."""

    def __init__(self, feature_size: int) -> None:
        self._feature_size = feature_size

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return zeros."""
        shape = (len(faces), self._feature_size)
        return FeatureBatch(np.zeros(shape, np.float32), {}, np.full(len(faces), np.nan, np.float32))


def measure_stages(part: Part, bundle: Bundle, embedder: CudaEmbedder, mode: "Mode") -> Rates:
    """Return images a second of each stage alone, in the mode's batches."""
    spec, device, requests, batch = bundle.model.preprocess, part.device, mode.requests, mode.batch
    faces = encode_faces(requests, spec)
    batches = [faces[start : start + batch] for start in range(0, len(faces), batch)]
    xp = load_array_module(device)
    rates: Rates = {}

    def read() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(locate, requests))

    rates["read and probe, all cores"] = rate_of(read, len(requests), device)
    croppers = [DeviceCropper(spec, THREADS, batch, device) for _ in range(2)]

    def cut(cropper: DeviceCropper) -> None:
        for some in batches:
            cropper.crop(some)

    works = [partial(cut, cropper) for cropper in croppers]
    rates["decode and cut, two threads"] = rate_of(partial(in_two_threads, works), 2 * len(faces), device)
    del croppers, works
    engine = embedder._engine  # noqa: SLF001 - the very engine that serves, alone
    crops = xp.asarray(draw_crops(min(batch, engine.max_batch), seed=1))
    seconds = time_device(lambda: engine.run(crops), device, rounds=7, calls=4)
    rates["network"] = len(crops) / seconds
    features, mixture = engine.run(crops), DeviceMixture(bundle.model.mixture, xp)
    rates["mixture"] = len(crops) / time_device(lambda: mixture.log_likelihood(features), device, calls=20)
    located = [locate(request) for request in requests[:batch]]
    canned = CannedEmbedder(bundle.manifest.feature_size)
    host = partial(score_with_defaults, located, canned, bundle.model)
    rates["decisions and results, FP64 mixture, one thread"] = rate_of(host, len(located), device)
    for name, rate in rates.items():
        part.record(f"{mode.name}: {name}", rate, "images/s")
    return rates


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode: the images, and their number in a batch."""

    name: str
    requests: list[ScoreRequest]
    batch: int


def measure_mode(part: Part, bundle: Bundle, embedders: Sequence[CudaEmbedder], mode: Mode) -> None:
    """State one mode's rate, its limit and the stage that sets it."""
    rates = measure_stages(part, bundle, embedders[0], mode)
    total = part.choose(max(4096, 32 * mode.batch), len(mode.requests))

    def score() -> None:
        endless = (request for _ in range(total) for request in mode.requests)
        scored = score_all(embedders, bundle, islice(endless, total), mode.batch)
        if scored != total:
            message = f"{total - scored} of {total} photographs got no p-value"
            raise RuntimeError(message)

    rounds = part.choose(3, 1)
    with part.measure_energy(mode.name, (rounds + 1) * total):
        rate = rate_of(score, total, part.device, rounds)
    binding = min(rates, key=rates.__getitem__)
    part.record(f"{mode.name}: bytes to p-values", rate, "images/s", ceiling=rates[binding])
    part.note(f"{mode.name}: batches of {mode.batch}; the slowest stage is {binding}")
    part.record(f"{mode.name}: share of the slowest stage alone", 100 * rate / rates[binding], "%")
    part.record(f"{mode.name}: share of the mixture", 100 * rate / rates["mixture"], "%")


def measure(part: Part) -> None:
    """State the golden faces' difference, then both modes."""
    bundle = make_gpu_bundle(part, *part.choose((RESNET, FP16), (LITE, FP32)))
    embedder = open_embedder(part, bundle)
    part.record("golden faces, this engine against the graph on a CPU", verify_engine(bundle, embedder), "nats")
    embedders = (embedder, embedder.share())
    folder = part.scratch / "photographs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    from_files = make_photographs(folder, part.choose(512, 16))
    in_memory = [request.model_copy(update={"image": ImageSource(data=read_file(request))}) for request in from_files]
    synchronise(part.device)
    for mode in (
        Mode("stream", in_memory, part.choose(64, 4)),
        Mode("archive", from_files, part.choose(256, 8)),
    ):
        with part.attempt(mode.name):
            measure_mode(part, bundle, embedders, mode)


def read_file(request: ScoreRequest) -> bytes:
    """Return the encoded photograph of `request`."""
    return Path(str(request.image.uri).removeprefix("file://")).read_bytes()
