"""JPEG decode by the GPU's decoder units, by its cores, by both, and by the CPU: rates, and what it does to the pixels.

Whole images are decoded for the rates; crops are those of ingest's own paths, CPU against device, in grey levels
(`engine_parity` has the nats).
"""

import os

import numpy as np
from clock import time_wall
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from part import Part
from photographs import draw_photograph, encode_face

from ingest.dali import FaceCropper
from ingest.dali_cuda import DeviceCropper
from ingest.device import load_array_module
from ingest.probe import EncodedFace
from ingest.spec import PreprocessSpec

SIDES = {"640x480": (640, 480), "1080p": (1920, 1080)}
# Which share of a batch goes to the decoder units, and whether chroma is interpolated as libjpeg-turbo does it.
DECODERS = {
    "CPU": None,
    "mixed, as served": (0.65, True),
    "mixed, chroma repeated": (0.65, False),
    "hardware": (1.0, True),
    "hardware, chroma repeated": (1.0, False),
    "CUDA cores": (0.0, True),
}
THREADS = len(os.sched_getaffinity(0))
BATCH = 64


def make_decoder(images: list[bytes], way: tuple[float, bool] | None) -> Pipeline:
    """Return a pipeline that decodes `images` again and again, two batches in flight; None decodes on the CPU."""
    on_cpu = way is None
    batch = [np.frombuffer(image, np.uint8) for image in images]
    pipeline = Pipeline(len(batch), THREADS, None if on_cpu else 0, prefetch_queue_depth=2)
    with pipeline:
        image = fn.external_source(source=lambda: batch, dtype=types.UINT8, ndim=1, no_copy=True)
        options = {} if way is None else {"hw_decoder_load": way[0], "jpeg_fancy_upsampling": way[1]}
        pipeline.set_outputs(fn.decoders.image(image, device="cpu" if on_cpu else "mixed", **options))
    pipeline.build()
    return pipeline


def measure_rates(part: Part, photographs: dict[str, list[bytes]]) -> None:
    """State images a second by decoder and size."""
    decoders = DECODERS if part.device == "cuda" else {"CPU": None}
    runs = part.choose(8, 2)
    for name, way in decoders.items():
        for size, images in photographs.items():
            with part.attempt(f"decode by {name}, {size}"):
                pipeline = make_decoder(images, way)

                def decode(pipeline: Pipeline = pipeline) -> None:
                    for _ in range(runs):
                        pipeline.run()

                decode()
                rate = runs * len(images) / time_wall(decode, part.device, part.choose(5, 2))
                part.record(f"{size}, {name}, batches of {len(images)}", rate, "images/s")
                del pipeline, decode


def measure_crops(part: Part, faces: list[EncodedFace]) -> tuple[np.ndarray, np.ndarray]:
    """State the rates of ingest's two paths; return the crops of both, CPU's first."""
    spec, xp = PreprocessSpec(), load_array_module(part.device)
    host, device = FaceCropper(spec, THREADS, BATCH), DeviceCropper(spec, THREADS, BATCH, part.device)
    cuts = {"CPU": lambda: host.crop(faces), "device": lambda: device.crop(faces)}
    for name, cut in cuts.items():
        cut()
        rate = len(faces) / time_wall(cut, part.device, part.choose(5, 2))
        part.record(f"decode and cut, {name}, one thread's batches of {BATCH}", rate, "faces/s")
    crops, failures = device.crop(faces)
    if failures:
        message = f"{len(failures)} of {len(faces)} sound photographs failed: {next(iter(failures.values()))}"
        raise RuntimeError(message)
    return np.stack(host.crop(faces)), np.array(crops) if xp is np else xp.asnumpy(crops)  # type: ignore[arg-type]  # all are sound


def measure_parity(part: Part, expected: np.ndarray, found: np.ndarray) -> None:
    """State how far the device's crops are from the CPU's, in grey levels."""
    apart = np.abs(found.astype(int) - expected)
    part.record("crops: mean difference", apart.mean(), "levels")
    part.record("crops: 99.9th percentile", float(np.quantile(apart, 0.999)), "levels")
    part.record("crops: largest difference", apart.max(), "levels")


def measure(part: Part) -> None:
    """State rates, then parity."""
    rng = np.random.default_rng(0)
    count = part.choose(128, 8)
    photographs = {name: [draw_photograph(rng, *side) for _ in range(count)] for name, side in SIDES.items()}
    with part.attempt("ingest's own paths"):
        spec = PreprocessSpec()
        faces = [encode_face(data, box, spec) for pictures in photographs.values() for data, box in pictures]
        measure_parity(part, *measure_crops(part, faces))
    measure_rates(part, {name: [data for data, _ in pictures] for name, pictures in photographs.items()})
