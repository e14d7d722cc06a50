"""The bundle behind Triton Inference Server: golden faces and images a second, by NumPy and by the device's mixture.

On a GPU it takes a server with TensorRT and the DALI backend (NVIDIA's container) and a TensorRT that builds its plan;
without them this part says what is missing. A rehearsal serves the starter bundle on the CPU as `make triton` does.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from bundles import make_gpu_bundle
from clock import time_wall
from networks import RESNET
from part import ROOT, Part
from photographs import draw_photograph, encode_face

from ingest.probe import EncodedFace
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.engines.verify import verify_engine
from scorer.settings import TritonSettings

BATCHES = (64, 256)
START_S = 60
SERVERS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/opt/tritonserver/bin"])


@contextmanager
def serve_here(part: Part, bundle: Bundle) -> Iterator[str]:
    """Serve a bundle for the CPU with the server that development uses; yield its address."""
    from deploy.local.triton import TritonServer, find_python  # noqa: PLC0415 - rehearsals only

    if not find_python().is_file():
        message = "Triton's environment is not made: `make .venv-triton/installed`"
        raise ModuleNotFoundError(message, name="pytriton")
    with TritonServer(bundle.folder, part.scratch) as server:
        yield server.url


@contextmanager
def serve_on_gpu(part: Part, bundle: Bundle) -> Iterator[str]:
    """Build the plan, serve the bundle with the machine's own server, yield its address."""
    program = shutil.which("tritonserver", path=SERVERS)
    if program is None:
        message = "tritonserver is not on this machine"
        raise ModuleNotFoundError(message, name="tritonserver")
    from scorer.engines.tensorrt.build import build_plan  # noqa: PLC0415 - TensorRT may not be there

    started = time.monotonic()
    build_plan(bundle)
    part.record("the plan's build", time.monotonic() - started, "s")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, f"--model-repository={bundle.folder}", "--model-control-mode=explicit"]
    command += ["--load-model=face_features", "--grpc-address=127.0.0.1", f"--grpc-port={port}"]
    command += ["--allow-http=false", "--allow-metrics=false"]
    log = part.scratch / "triton.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        await_port(port, process, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def await_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the server listens, which it does after its models are loaded.

    Raises:
        RuntimeError: it ended, or did not serve in time.
    """
    deadline = time.monotonic() + START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            message = f"Triton does not serve: {log.read_text(errors='replace')[-1500:]}"
            raise RuntimeError(message)
        time.sleep(0.1)


def measure(part: Part) -> None:
    """Report differences in nats, and rates of a client with many requests in flight, for each way of the features."""
    on_gpu = part.device == "cuda"
    bundle = make_gpu_bundle(part, RESNET, "fp16") if on_gpu else read_bundle(ROOT / "model_repository")
    rng, spec = np.random.default_rng(4), bundle.model.preprocess
    faces = [encode_face(*draw_photograph(rng, 1024, 768), spec) for _ in range(part.choose(1024, 16))]
    with (serve_on_gpu if on_gpu else serve_here)(part, bundle) as url:
        for stream in (None, DeviceStream(part.device)):
            with part.attempt("NumPy" if stream is None else "the device's mixture"):
                measure_way(part, bundle, url, stream, faces)
    if not on_gpu:
        part.note("not measured: CuPy, shared memory of CUDA")


def measure_way(
    part: Part, bundle: Bundle, url: str, stream: DeviceStream | None, faces: Sequence[EncodedFace]
) -> None:
    """Report on a client that computes the mixture on `stream`, or with NumPy."""
    from scorer.engines.triton.embedder import TritonEmbedder  # noqa: PLC0415 - first of all a server is wanted

    paths = [("host", "no answer about shared memory")]
    mixture, way = bundle.model.mixture, "NumPy" if stream is None else stream.xp.__name__ + " FP32"
    embedder = TritonEmbedder(bundle, TritonSettings(url=url), stream, lambda *path: paths.append(path))
    with closing(embedder):
        part.record(f"golden faces, {way}", verify_engine(bundle, embedder), "nats")
        part.note(f"{way}: features from {paths[-1][0]} ({paths[-1][1]})")
        for batch in part.choose(BATCHES, (16,)):
            some = faces[:batch] * part.choose(8, 1)
            scored = embedder.embed(some)
            apart = np.abs(scored.log_likelihood(mixture) - scored.on_host().log_likelihood(mixture)).max()
            part.record(f"mixture from FP64, {len(some)} faces a call, {way}", apart, "nats", at_most=1e-3)
            seconds = time_wall(
                lambda some=some: embedder.embed(some).log_likelihood(mixture), "cpu", part.choose(5, 2)
            )
            part.record(f"1024x768, {len(some)} faces a call, {way}", len(some) / seconds, "images/s")
