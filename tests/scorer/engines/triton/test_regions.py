"""Features in memory that a client shares with a live server: on a CPU the system's, with the code of a GPU's."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deploy.local.triton import MEMORY, ROOT, TritonServer
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason
from ingest.spec import Window
from scorer.bundle.bundle import Bundle
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.engines.openvino import LocalEmbedder
from scorer.engines.triton import embedder as client
from scorer.engines.triton import regions
from scorer.engines.triton.embedder import TritonEmbedder, TritonUnavailable
from scorer.errors import BundleMismatch
from scorer.settings import TritonSettings
from tests.scorer.engines.triton.test_embedder import answers, wait_until

Paths = list[tuple[str, str]]
Check = Callable[[TritonEmbedder], bool]


@pytest.fixture(scope="module")
def faces(portrait: bytes) -> list[EncodedFace]:
    """Four windows of the portrait."""
    return [EncodedFace(portrait, probe_image(portrait), Window(160 + 8 * step, 60, 140, 140)) for step in range(4)]


@pytest.fixture(scope="module")
def expected(faces: list[EncodedFace], embedder: LocalEmbedder) -> np.ndarray:
    """Their features."""
    return embedder.embed(faces).features


@pytest.fixture
def is_right(faces: list[EncodedFace], expected: np.ndarray) -> Check:
    """Whether a client gives the features of the faces."""
    return lambda remote: np.array_equal(remote.embed(faces).features, expected)


@pytest.fixture
def paths() -> Paths:
    """Where the client said that features come from."""
    return []


@pytest.fixture
def remote(starter: Bundle, triton: TritonServer, paths: Paths) -> Iterator[TritonEmbedder]:
    """A client that shares memory, and leaves none behind."""
    with closing(connect(starter, triton.url, paths)) as embedder:
        yield embedder
    assert not list_files()
    assert not list_known(triton)


def connect(bundle: Bundle, url: str, paths: Paths) -> TritonEmbedder:
    """Return a client that shares memory."""
    return TritonEmbedder(bundle, TritonSettings(url=url), DeviceStream("cpu"), lambda *path: paths.append(path))


def list_files(process: int = os.getpid()) -> set[str]:
    """Return the names of a process's regions."""
    return {path.name for path in MEMORY.glob(f"unlensed.*.{process}.*")}


def list_known(server: TritonServer) -> set[str]:
    """Return the names of the regions that a server knows."""
    with grpc.insecure_channel(server.url) as channel:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).SystemSharedMemoryStatus
        return set(ask(service_pb2.SystemSharedMemoryStatusRequest(), timeout=10).regions)


def test_threads_take_regions_and_return_them(
    remote: TritonEmbedder, starter: Bundle, faces: list[EncodedFace], expected: np.ndarray, triton: TritonServer
) -> None:
    """Features keep their bits, likelihoods are those of NumPy, and later batches use the regions of the first ones."""
    mixture, known = starter.model.mixture, set()
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            batches = list(pool.map(remote.embed, [[*faces, replace(faces[0], data=b"no picture")]] * 6))
        known |= list_known(triton)
        for batch in batches:
            assert [(row, failure.reason) for row, failure in batch.failures.items()] == [
                (4, Reason.UNSUPPORTED_FORMAT)
            ]
            assert np.isnan(batch.features[4]).all()
            assert np.array_equal(batch.features[:4], expected)
            apart = batch.log_likelihood(mixture) - batch.on_host().log_likelihood(mixture)
            assert np.abs(apart[:4]).max() < 1e-3
    assert known == list_files()
    assert 1 <= len(known) <= 3


def test_a_batch_may_be_larger_than_a_region(
    remote: TritonEmbedder, is_right: Check, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that do not fit come in their answers."""
    for module in (regions, client):
        monkeypatch.setattr(module, "REGION_BYTES", expected[:3].nbytes)
    assert is_right(remote)


def test_a_region_that_the_server_does_not_know_costs_no_answer(
    remote: TritonEmbedder, is_right: Check, triton: TritonServer, paths: Paths
) -> None:
    """The faces are sent without it, and the next batch has a new region."""
    assert is_right(remote)
    (lost,) = list_known(triton)
    with grpc.insecure_channel(triton.url) as channel:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).SystemSharedMemoryUnregister(
            service_pb2.SystemSharedMemoryUnregisterRequest(name=lost)
        )
    assert is_right(remote)
    assert is_right(remote)
    assert list_known(triton) == list_files() != {lost}
    assert [path for path, _ in paths] == ["system_shared_memory"]


@pytest.mark.slow
def test_a_restarted_server_maps_new_regions(
    remote: TritonEmbedder, starter: Bundle, is_right: Check, triton: TritonServer
) -> None:
    """The same client shares memory with it again."""
    assert is_right(remote)
    triton.kill()
    triton.start()
    wait_until(lambda: answers(starter, remote))
    assert is_right(remote)
    assert list_known(triton) == list_files() != set()


def test_a_region_of_unanswered_requests_is_not_used_again(
    remote: TritonEmbedder, is_right: Check, faces: list[EncodedFace], triton: TritonServer
) -> None:
    """It stays as long as the server may write to it, and is freed then."""
    assert is_right(remote)
    (late,) = list_known(triton)
    remote._timeout_s = 0.05  # noqa: SLF001 - the same client, in a hurry
    with pytest.raises(TritonUnavailable, match="DEADLINE"):
        remote.embed(faces * 25)
    files = list_files()
    assert late in files or late not in list_known(triton)
    remote._timeout_s = 20  # noqa: SLF001 - as above
    wait_until(lambda: is_right(remote) and late not in list_files())
    assert list_files() == list_known(triton) != set()


class Elsewhere(regions.SystemRegion):
    """Memory that the server cannot open, as that of another machine."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = {"key": "/elsewhere"}


class OfAGpu(regions.SystemRegion):
    """Memory that claims to be a GPU's, for a server without one."""

    kind = "Cuda"

    def __init__(self) -> None:
        super().__init__()
        self.fields = {"raw_handle": bytes(64)}


@pytest.mark.parametrize("memory", [Elsewhere, OfAGpu])
def test_what_cannot_be_shared_comes_in_answers(
    starter: Bundle,
    triton: TritonServer,
    is_right: Check,
    memory: type[regions.Region],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's refusal is reported once, and the numbers are the same."""
    monkeypatch.setitem(regions.ALLOCATORS, "cpu", memory)
    paths: Paths = []
    with closing(connect(starter, triton.url, paths)) as remote:
        assert is_right(remote)
        assert is_right(remote)
    ((path, why),) = paths
    assert path == "host"
    assert "cannot share memory" in why


def test_features_too_large_for_a_row_are_another_bundles(
    starter: Bundle, triton: TritonServer, faces: list[EncodedFace]
) -> None:
    """The server does not write beyond a row, and this is no outage."""
    other = replace(starter, manifest=starter.manifest.model_copy(update={"feature_size": 4}))
    with closing(connect(other, triton.url, [])) as remote, pytest.raises(BundleMismatch, match="another bundle"):
        remote.embed(faces)


CRASH = """
from tests.scorer.engines.triton.test_regions import *
from scorer.bundle.bundle import read_bundle
borrowed = connect(read_bundle(ROOT / "model_repository"), sys.argv[1], [])._regions.borrow()
borrowed.__enter__()
os.kill(os.getpid(), 9)
"""


def test_a_killed_worker_leaves_nothing(remote: TritonEmbedder, is_right: Check, triton: TritonServer) -> None:
    """The system's memory is removed at once, the server's mapping when the host's next worker starts."""
    with subprocess.Popen([sys.executable, "-c", CRASH, triton.url], cwd=ROOT) as worker:
        worker.wait()
    wait_until(lambda: not list_files(worker.pid))
    assert len(list_known(triton)) == 1
    assert is_right(remote)
    assert list_known(triton) == list_files()


@pytest.mark.slow
def test_several_servers_share_no_memory(
    starter: Bundle, triton: TritonServer, triton_python: Path, tmp_path: Path, is_right: Check, paths: Paths
) -> None:
    """A region is known to one of those that answer in turn: features come in answers, and none is lost."""
    with (
        TritonServer(ROOT / "model_repository", tmp_path, triton_python) as second,
        closing(connect(starter, f"ipv4:{triton.url},{second.url}", paths)) as both,
    ):
        wait_until(lambda: answers(starter, both))
        assert all(is_right(both) for _ in range(5))
    assert paths[-1][0] == "host"
