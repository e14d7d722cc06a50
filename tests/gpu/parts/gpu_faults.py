"""Faults of a GPU: too little memory halves the batch, and the process exits with its own code if the GPU is lost.

Neither can happen on a CPU, where a rehearsal only counts the faces that get features.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from bundles import make_gpu_bundle
from networks import LITE
from part import Part
from photographs import draw_photograph, encode_face

from ingest.device import load_array_module
from ingest.probe import EncodedFace
from scorer.engines.cuda.embedder import CudaEmbedder
from scorer.engines.cuda.faults import GPU_LOST
from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine
from scorer.model import Model

SPARE_BYTES, LARGEST_PIECE_BYTES = 8 << 20, 4 << 30
# Writes outside any memory: CUDA answers with a sticky error.
LOSE_THE_GPU = """
import cupy
from scorer.engines.cuda.device_stream import DeviceStream
stream = DeviceStream("cuda")
with stream.activate():
    wild = cupy.RawKernel('extern "C" __global__ void wild(float* p) { p[1LL << 42] = 1.0f; }', "wild")
    wild((1,), (1,), (cupy.zeros(1, cupy.float32),))
    stream.copy_to_host(cupy.zeros(1))
"""


@contextmanager
def occupied_memory(runtime: Any) -> Iterator[None]:  # noqa: ANN401 - CuPy has no types
    """Occupy nearly all free memory of the GPU, in the largest possible pieces."""
    pieces, size = [], LARGEST_PIECE_BYTES
    while size > SPARE_BYTES // 2 and runtime.memGetInfo()[0] > SPARE_BYTES:
        try:
            pieces.append(runtime.malloc(size))
        except runtime.CUDARuntimeError:
            size //= 2
    try:
        yield
    finally:
        for piece in pieces:
            runtime.free(piece)


def measure_memory(part: Part, embedder: CudaEmbedder, model: Model, faces: list[EncodedFace]) -> None:
    """State how far batches shrink on a GPU whose memory is taken, and that scores do not change."""
    cupy = load_array_module("cuda")
    expected = embedder.embed(faces).log_likelihood(model.mixture)
    cupy.get_default_memory_pool().free_all_blocks()
    with occupied_memory(cupy.cuda.runtime):
        part.record("crops at once before", embedder.max_crops, "")
        found = embedder.embed(faces).log_likelihood(model.mixture)
    part.record("crops at once on a full GPU", embedder.max_crops, "")
    part.record("scores on a full GPU from before", float(np.abs(found - expected).max()), "nats")


def measure(part: Part) -> None:
    """State the figures of memory first; another process loses the GPU."""
    bundle = make_gpu_bundle(part, LITE, "fp32")
    engine = OnnxRuntimeEngine(bundle.extractor, bundle.manifest, part.device, part.choose(128, 4))
    embedder = CudaEmbedder(bundle.model, engine, 2, part.device)
    rng = np.random.default_rng(3)
    spec = bundle.model.preprocess
    faces = [encode_face(*draw_photograph(rng, 1600, 1200), spec) for _ in range(part.choose(128, 4))]
    answered = np.isfinite(embedder.embed(faces).log_likelihood(bundle.model.mixture)).sum()
    part.record("faces answered", answered, f"of {len(faces)}", at_least=len(faces))
    if part.device == "cpu":
        part.note("memory and a lost GPU: only where there is a GPU")
        return
    with part.attempt("a full GPU"):
        measure_memory(part, embedder, bundle.model, faces)
    with part.attempt("a lost GPU"):
        command = [sys.executable, "-c", LOSE_THE_GPU]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)
        part.note(f"a lost GPU: {answer.stderr.strip()[-400:]}")
        part.record(f"exit code of a process that lost the GPU ({GPU_LOST} is asked for)", answer.returncode, "")
        if answer.returncode != GPU_LOST:
            message = f"the process ended with {answer.returncode}"
            raise RuntimeError(message)
