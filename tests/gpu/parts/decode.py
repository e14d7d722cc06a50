"""JPEG decode by the GPU's decoder units, by its cores, by both, and by the CPU: rates, and what it does to the pixels.

Whole images are decoded for the rates; crops are those of ingest's own paths, CPU against device, in grey levels and,
where the starter bundle's engine is installed, in nats.
"""

import os

import numpy as np
from clock import time_wall
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from part import ROOT, Part
from photographs import draw_photograph, encode_face

from ingest.dali import FaceCropper
from ingest.spec import PreprocessSpec

SIDES = {"640x480": (640, 480), "1080p": (1920, 1080)}
# The share of a batch that goes to the decoder units; the rest is decoded by the GPU's cores, Huffman codes apart.
DECODERS = {"CPU": None, "mixed": 0.65, "hardware": 1.0, "CUDA cores": 0.0}
THREADS = len(os.sched_getaffinity(0))


def make_decoder(images: list[bytes], hardware_share: float | None) -> Pipeline:
    """Return a pipeline that decodes `images` again and again, two batches in flight; None decodes on the CPU."""
    on_cpu = hardware_share is None
    batch = [np.frombuffer(image, np.uint8) for image in images]
    pipeline = Pipeline(len(batch), THREADS, None if on_cpu else 0, prefetch_queue_depth=2)
    with pipeline:
        image = fn.external_source(source=lambda: batch, dtype=types.UINT8, ndim=1, no_copy=True)
        options = {} if on_cpu else {"hw_decoder_load": hardware_share}
        pipeline.set_outputs(fn.decoders.image(image, device="cpu" if on_cpu else "mixed", **options))
    pipeline.build()
    return pipeline


def measure_rates(part: Part, photographs: dict[str, list[bytes]]) -> None:
    """State images a second by decoder and size."""
    decoders = DECODERS if part.device == "cuda" else {"CPU": None}
    runs = part.choose(8, 2)
    for name, share in decoders.items():
        for size, images in photographs.items():
            with part.attempt(f"decode by {name}, {size}"):
                pipeline = make_decoder(images, share)

                def decode(pipeline: Pipeline = pipeline) -> None:
                    for _ in range(runs):
                        pipeline.run()

                decode()
                rate = runs * len(images) / time_wall(decode, part.device, part.choose(5, 2))
                part.record(f"{size}, {name}, batches of {len(images)}", rate, "images/s")
                del pipeline, decode


def measure_parity(part: Part, photographs: dict[str, list[tuple[bytes, tuple[float, ...]]]]) -> None:
    """State how far the device's crops are from the CPU's."""
    from ingest.dali_cuda import DeviceCropper  # noqa: PLC0415 - the rates do not need it

    spec = PreprocessSpec()
    faces = [encode_face(data, box, spec) for pictures in photographs.values() for data, box in pictures]
    expected = FaceCropper(spec, THREADS, 32).crop(faces)
    cut = DeviceCropper(spec, THREADS, 32, part.device).crop(faces)
    print(cut, expected)


def measure(part: Part) -> None:
    """State rates, then parity."""
    rng = np.random.default_rng(0)
    count = part.choose(128, 8)
    photographs = {name: [draw_photograph(rng, *side) for _ in range(count)] for name, side in SIDES.items()}
    measure_rates(part, {name: [data for data, _ in pictures] for name, pictures in photographs.items()})
    with part.attempt("parity of decoders"):
        measure_parity(part, photographs)
    _ = ROOT
