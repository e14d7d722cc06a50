"""The bundle behind Triton Inference Server: golden faces through gRPC, and images a second.

On a GPU it takes a server with TensorRT and the DALI backend (NVIDIA's container) and a TensorRT that builds its plan;
without them this part says what is missing. A rehearsal serves the starter bundle on the CPU as `make triton` does.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from bundles import make_gpu_bundle
from clock import time_wall
from networks import RESNET
from part import ROOT, Part
from photographs import draw_photograph, encode_face

from scorer.bundle.bundle import Bundle, read_bundle
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
    """Report the golden faces' difference, and rates of a client with many requests in flight."""
    on_gpu = part.device == "cuda"
    bundle = make_gpu_bundle(part, RESNET, "fp16") if on_gpu else read_bundle(ROOT / "model_repository")
    rng, spec = np.random.default_rng(4), bundle.model.preprocess
    faces = [encode_face(*draw_photograph(rng, 1024, 768), spec) for _ in range(part.choose(1024, 16))]
    with (serve_on_gpu if on_gpu else serve_here)(part, bundle) as url:
        from scorer.engines.triton.embedder import TritonEmbedder  # noqa: PLC0415 - first of all a server is wanted

        embedder = TritonEmbedder(bundle, TritonSettings(url=url))
        part.record("golden faces through the server", verify_engine(bundle, embedder), "nats")
        for batch in part.choose(BATCHES, (16,)):
            some = faces[:batch] * part.choose(8, 1)
            work = partial(embedder.embed, some)
            work()
            rate = len(some) / time_wall(work, "cpu", part.choose(5, 2))
            part.record(f"1024x768, {len(some)} faces a call", rate, "images/s")
        embedder.close()
