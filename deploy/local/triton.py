#!/usr/bin/env python3
"""A real Triton Inference Server on this machine's loopback: for development, tests and benchmarks.

    python deploy/local/triton.py --bundle model_repository

The server is that of the nvidia-pytriton wheel, which has Python backends only. It runs in a separate environment
(`deploy/local/triton.txt`; `make triton` creates it as `.venv-triton`; `TRITON_PYTHON` is the interpreter of another
one). Only `face_features` and the models of its ensemble are loaded.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-triton"
BACKENDS = {"unlensed_crops": "FaceCropsModel", "unlensed_openvino": "FaceExtractorModel"}
START_S = 60
STOP_S = 10
WATCH_S = 0.5
GRACE_S = 2.5  # in which Triton answers the requests of a crashed backend
LOG_LINES = 15
# Prints the environment's packages folder, its Python version, and the folder and name of its shared library.
_DESCRIBE = (
    "from sysconfig import *; names = 'py_version_short', 'LIBDIR', 'INSTSONAME'; "
    "print(get_path('purelib'), *get_config_vars(*names), sep='\\n')"
)
MEMORY = Path("/dev/shm")  # noqa: S108 - shared memory of Linux


class TritonFailed(RuntimeError):
    """The server cannot be started; the message states why and what to do."""


class TritonServer:
    """A server of one bundle, in a process group of its own; `url` is its gRPC address.

    Args:
        bundle: the model repository.
        scratch: an empty folder for the log and the backends.
        python: the interpreter of the server's environment; without one, `find_python`.
        port: the gRPC port on 127.0.0.1; 0 takes a free one and keeps it over restarts.
        options: further options of `tritonserver`.

    Raises:
        TritonFailed: the environment lacks something.
    """

    def __init__(
        self, bundle: Path, scratch: Path, python: Path | None = None, port: int = 0, options: Sequence[str] = ()
    ) -> None:
        python = python or find_python()
        self.log = scratch / "triton.log"
        self._port = port or _free_port()
        self.url = f"127.0.0.1:{self._port}"
        self.restarts = 0  # by `supervise`
        self._process: subprocess.Popen[bytes] | None = None
        self._backends: set[int] = set()
        packages, version, library_folder = _describe(python)
        server = packages / "pytriton" / "tritonserver"
        lay_out_backends(server, version, scratch / "backends")
        self._memory_prefix = f"unlensed-{os.getpid()}-{self._port}-"
        self._command = [
            str(server / "bin" / "tritonserver"),
            f"--model-repository={bundle.resolve()}",
            f"--backend-directory={scratch / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._memory_prefix}",
            # A bundle also contains the detector, so the models are named; clients cannot load others.
            "--model-control-mode=explicit",
            "--load-model=face_features",
            "--grpc-restricted-protocol=model-repository:none=none",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._port}",
            "--allow-http=false",
            "--allow-metrics=false",
            *options,
        ]
        # The stub ignores PYTHONPATH; it uses the first python3 on the PATH.
        self._environment = os.environ | {
            "PATH": f"{python.absolute().parent}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": f"{library_folder}:{packages / 'nvidia_pytriton.libs'}",
        }

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start, and wait until it serves.

        Raises:
            TritonFailed: it exited, or did not serve within a minute.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the server of the environment that the caller named
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_it_serves(self._process)
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_serves(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_S
        while not _listens(self._port):  # it listens once its models are loaded
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"Triton did not start; the last lines of {self.log}:\n{self.read_log_end()}"
                raise TritonFailed(message)
            time.sleep(0.05)
        self._backends = _living(process.pid)

    def stop(self) -> None:
        """Stop it with SIGTERM, so that requests in flight are finished, then with SIGKILL."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """Stop it and its Python processes with SIGKILL, as in a crash."""
        if not self._process:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for region in MEMORY.glob(f"{self._memory_prefix}*"):
            region.unlink(missing_ok=True)

    def read_log_end(self) -> str:
        """Return the last lines of the log, without the tables of options."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if line and line[0] not in "+|"][-LOG_LINES:])

    @property
    def healthy(self) -> bool:
        """Whether it and its backends run: without a Python backend Triton keeps running and fails its requests."""
        process = self._process
        return process is not None and process.poll() is None and self._backends <= _living(process.pid)

    def supervise(self, stop: threading.Event) -> None:
        """Restart it, and count that, when it or one of its backends has crashed, until `stop` is set.

        Raises:
            TritonFailed: a restart failed.
        """
        while not stop.wait(WATCH_S):
            if not self.healthy and not stop.wait(GRACE_S):
                self.kill()
                self.start()
                self.restarts += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def find_python() -> Path:
    """Return the interpreter of the server's environment, whether or not it exists."""
    return Path(os.environ.get("TRITON_PYTHON", ENVIRONMENT / "bin/python"))


def _describe(python: Path) -> tuple[Path, str, Path]:
    """Return the environment's packages, its Python version and the folder of its libpython."""
    if not python.is_file():
        message = f"{python} does not exist; `make triton` makes the environment, TRITON_PYTHON names another"
        raise TritonFailed(message)
    answer = subprocess.run(  # noqa: S603 - the interpreter that the caller named
        [str(python), "-c", _DESCRIBE], capture_output=True, text=True, check=True
    )
    packages, version, folder, library = answer.stdout.splitlines()
    if ".so" not in library or not (Path(folder) / library).is_file():
        message = f"{folder}/{library} does not exist, which the server's Python stub needs: install libpython{version}"
        raise TritonFailed(message)
    if not (Path(packages) / "pytriton").is_dir():
        message = f"{packages} has no pytriton: pip install --no-deps --requirement deploy/local/triton.txt"
        raise TritonFailed(message)
    return Path(packages), version, Path(folder)


def lay_out_backends(server: Path, version: str, folder: Path) -> None:
    """Create a backend directory: Triton's Python backend, and this project's backends."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(server / "backends" / "python", folder / "python")  # copies, since Triton refuses links
    shutil.copytree(server / "python_backend_stubs" / version, folder / "python", dirs_exist_ok=True)
    for name, model in BACKENDS.items():
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(
            "import sys\n"
            f"sys.path.append({str(ROOT)!r})\n"
            f"from scorer.engines.triton.backends import {model} as TritonPythonModel\n"
        )


def _living(parent: int) -> set[int]:
    """Return the running children of a process."""
    children = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z":
                children.add(int(stat.parent.name))
    return children


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Serve a bundle until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--grpc-port", type=int, default=8001, help="0 takes a free one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="unlensed-triton-") as scratch:
        try:
            with TritonServer(options.bundle, Path(scratch), port=options.grpc_port) as server:
                print(f"Triton serves {options.bundle} on grpc://{server.url}   log: {server.log}", flush=True)  # noqa: T201 - the output
                server.supervise(threading.Event())
        except TritonFailed as error:
            sys.exit(f"triton: {error}")


if __name__ == "__main__":
    main()
