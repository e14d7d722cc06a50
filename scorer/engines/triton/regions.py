"""Memory to which a Triton server on the same machine writes features.

On a GPU it is the GPU's: features never pass through the host. On a CPU the same code shares memory of the system, in
tests only: answers by gRPC were as fast.

A batch borrows a region, with one row for each request, and returns it when its rows were read. After an error requests
may still run: their region is unregistered, and freed when the server states that it does not know it any more. Whether
a server can share memory is found out by registering a region.
"""

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar
from uuid import uuid4

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from ingest.device import Kind, load_array_module
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.engines.cuda.faults import is_gpu_lost
from scorer.mixture import Array

REGION_BYTES = 2 << 20  # CUDA shares whole blocks of this size: a smaller region would expose its neighbours
CALL_S = 1.0  # a server that hangs delays each batch by three of them
HOST = "host"
_OUTAGES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_REFUSED = re.compile("Unable to find shared memory region|shared memory size specified with the request")
_PROCESS = uuid4().hex  # a restarted container has the process id of the last one
_NUMBERS = count()


class Region:
    """Memory of a device.

    Attributes:
        kind: "System" or "Cuda", as Triton names its calls.
        name: unique on all machines.
        fields: of the registration, beside name and size.
        values: the memory as float32.
        ended: whether no other batch may use it.
    """

    kind: ClassVar[str]
    fields: dict[str, object]
    values: Array
    ended = False

    def __init__(self) -> None:
        self.name = f"unlensed.{socket.gethostname()}.{os.getpid()}.{_PROCESS}.{next(_NUMBERS)}"

    def free(self) -> None:
        """Free the memory, to which no server may write."""
        self.values = None

    def place(self, output: str, row: int, size: int) -> Any:  # noqa: ANN401 - generated messages are untyped
        """Return the part of a request that asks for `output`, of `size` numbers, in `row`."""
        tensor = service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=output)
        tensor.parameters["shared_memory_region"].string_param = self.name
        tensor.parameters["shared_memory_byte_size"].int64_param = 4 * size
        tensor.parameters["shared_memory_offset"].int64_param = 4 * size * row
        return tensor


class SystemRegion(Region):
    """Memory of Linux, which Python's resource tracker removes when the process is killed."""

    kind = "System"

    def __init__(self) -> None:
        super().__init__()
        self._memory = SharedMemory(self.name, create=True, size=REGION_BYTES)
        self.fields = {"key": f"/{self.name}"}
        self.values = np.ndarray(REGION_BYTES // 4, np.float32, self._memory.buf)

    def free(self) -> None:
        """See `Region`."""
        super().free()
        self._memory.close()
        self._memory.unlink()


class CudaRegion(Region):
    """Memory of the current GPU, not of CuPy's pool, whose blocks hold other arrays."""

    kind = "Cuda"

    def __init__(self) -> None:
        super().__init__()
        cupy = load_array_module("cuda")
        memory = cupy.cuda.Memory(REGION_BYTES)
        self.fields = {"raw_handle": cupy.cuda.runtime.ipcGetMemHandle(memory.ptr), "device_id": memory.device_id}
        self.values = cupy.ndarray((REGION_BYTES // 4,), np.float32, cupy.cuda.MemoryPointer(memory, 0))


ALLOCATORS: dict[Kind, type[Region]] = {"cpu": SystemRegion, "cuda": CudaRegion}


class RegionPool:
    """The regions of one client; thread-safe.

    Args:
        service: the stub of the server.
        stream: of the device that reads the features.
        on_path: called with where features come from ("cuda_shared_memory", "system_shared_memory", "host") and the
            reason, when that is known and when it changes.
    """

    def __init__(self, service: Any, stream: DeviceStream, on_path: Callable[[str, str], object]) -> None:  # noqa: ANN401 - generated
        self._service, self._stream, self._on_path = service, stream, on_path
        self._kind = ALLOCATORS[stream.device].kind
        self._lock = Lock()
        self._free: list[Region] = []
        self._retired: list[Region] = []
        self._path = ""

    @contextmanager
    def borrow(self) -> Iterator[Region | None]:
        """Yield a region of NaN, or None where features must come in the answers.

        If the block fails, requests may still run, and no other batch uses the region.
        """
        self._free_retired()
        with self._lock:
            region = self._free.pop() if self._free else None
        region = region or self._open()
        if region is None:
            yield None
            return
        try:
            region.values.fill(np.nan)  # what the server did not write is never taken for a result
            self._stream.wait()
            yield region
        except BaseException:
            region.ended = True
            raise
        finally:
            with self._lock:
                (self._retired if region.ended else self._free).append(region)

    def close(self) -> None:
        """Unregister and free all regions, after the last batch; the end of the process frees those still in use."""
        self._path = HOST
        with self._lock:
            self._retired += self._free
            self._free = []
        self._free_retired()

    def _open(self) -> Region | None:
        """Return a new region that the server has mapped; None if it cannot, or not now."""
        if self._path == HOST:
            return None
        try:
            region = ALLOCATORS[self._stream.device]()
        except Exception as error:
            if is_gpu_lost(error):
                raise
            self._report(HOST, f"there is no memory to share ({error})")
            return None
        try:
            if not self._path:
                self._unregister_dead()
            self._call("Register", name=region.name, byte_size=REGION_BYTES, **region.fields)
            self._call("Status", name=region.name)  # of several servers that answer in turn, the next does not know it
        except grpc.RpcError as error:
            if error.code() not in _OUTAGES or "restricted" in error.details():
                self._report(HOST, f"the server cannot share memory with this process: {error.details()}")
            self._is_forgotten(region)
            region.free()  # no request names it
            return None
        self._report(f"{self._kind.lower()}_shared_memory", "the server mapped memory of this process")
        return region

    def _unregister_dead(self) -> None:
        """Unregister the regions of killed processes of this host, whose memory the server would keep."""
        ours = re.compile(rf"unlensed\.{re.escape(socket.gethostname())}\.(\d+)\.(\w+)\.\d+")
        for found in filter(None, map(ours.fullmatch, self._call("Status").regions)):
            lives = int(found[1]) != os.getpid() and Path(f"/proc/{found[1]}").exists()
            if found[2] != _PROCESS and not lives:
                self._call("Unregister", name=found[0])

    def _free_retired(self) -> None:
        with self._lock:
            regions, self._retired = self._retired, []
        while regions and self._is_forgotten(regions[0]):
            regions.pop(0).free()
        with self._lock:
            self._retired += regions

    def _is_forgotten(self, region: Region) -> bool:
        """Unregister a region; return whether the server does not know it any more.

        While a request uses it, Triton 2.51 refuses that, and later versions do it afterwards.
        """
        try:
            self._call("Unregister", name=region.name)
            self._call("Status", name=region.name)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        except ValueError:  # the channel is closed
            return False
        return False

    def _call(self, verb: str, **fields: object) -> Any:  # noqa: ANN401 - generated messages are untyped
        name = f"{self._kind}SharedMemory{verb}"
        return getattr(self._service, name)(getattr(service_pb2, f"{name}Request")(**fields), timeout=CALL_S)

    def _report(self, path: str, why: str) -> None:
        with self._lock:
            if self._path in (path, HOST):  # what was refused is not tried again
                return
            self._path = path
        self._on_path(path, why)


def is_refused(call: Any) -> bool:  # noqa: ANN401 - grpc's calls are untyped
    """Return whether the server did not run a request because of its region."""
    return call.code() is not grpc.StatusCode.OK and bool(_REFUSED.search(call.details()))
