"""Features in memory that a client shares with a live server: on a CPU the system's, with the code of a GPU's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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


@dataclass
class Rig:
    """A server, faces, their features, and a client that shares memory and reports its paths."""

    bundle: Bundle
    server: TritonServer
    faces: list[EncodedFace]
    expected: np.ndarray
    paths: list[tuple[str, str]] = field(default_factory=list)

    def connect(self, bundle: Bundle, url: str) -> TritonEmbedder:
        """Return another such client."""
        settings = TritonSettings(url=url)
        return TritonEmbedder(bundle, settings, DeviceStream("cpu"), lambda *path: self.paths.append(path))

    def is_right(self, remote: TritonEmbedder) -> bool:
        """Return whether the features of the faces keep their bits."""
        return np.array_equal(remote.embed(self.faces).features, self.expected)

    def call(self, verb: str, **fields: object) -> Any:  # noqa: ANN401 - generated messages are untyped
        """Send a request about memory of the system."""
        name = f"SystemSharedMemory{verb}"
        with grpc.insecure_channel(self.server.url) as channel:
            service = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return getattr(service, name)(getattr(service_pb2, f"{name}Request")(**fields), timeout=10)

    @property
    def known(self) -> set[str]:
        """The names of the regions that the server knows."""
        return set(self.call("Status").regions)


@pytest.fixture
def rig(starter: Bundle, triton: TritonServer, portrait: bytes, embedder: LocalEmbedder) -> Rig:
    """Four windows of the portrait."""
    info = probe_image(portrait)
    faces = [EncodedFace(portrait, info, Window(160 + 8 * step, 60, 140, 140)) for step in range(4)]
    return Rig(starter, triton, faces, embedder.embed(faces).features)


@pytest.fixture
def remote(rig: Rig) -> Iterator[TritonEmbedder]:
    """A client, which leaves no memory behind."""
    with closing(rig.connect(rig.bundle, rig.server.url)) as embedder:
        yield embedder
    assert list_files() == rig.known == set()


def list_files(process: int = os.getpid()) -> set[str]:
    """Return the names of a process's regions."""
    return {path.name for path in MEMORY.glob(f"unlensed.*.{process}.*")}


def test_threads_take_regions_and_return_them(remote: TritonEmbedder, rig: Rig) -> None:
    """Features keep their bits, likelihoods are those of NumPy, and later batches use the regions of the first ones."""
    mixture, known, bad = rig.bundle.model.mixture, set(), replace(rig.faces[0], data=b"no picture")
    for row in range(3):
        with ThreadPoolExecutor(3) as pool:
            batches = list(pool.map(remote.embed, [[*rig.faces[:row], bad, *rig.faces[row:]]] * 6))
        known |= rig.known
        for batch in batches:
            assert {bad: why.reason for bad, why in batch.failures.items()} == {row: Reason.UNSUPPORTED_FORMAT}
            assert np.isnan(batch.features[row]).all()  # though an earlier batch had features there
            assert np.array_equal(np.delete(batch.features, row, 0), rig.expected)
            apart = batch.log_likelihood(mixture) - batch.on_host().log_likelihood(mixture)
            assert np.abs(np.delete(apart, row)).max() < 1e-3
    assert known == list_files()
    assert 1 <= len(known) <= 3


def test_a_batch_may_be_larger_than_a_region(remote: TritonEmbedder, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that do not fit come in their answers."""
    for module in (regions, client):
        monkeypatch.setattr(module, "REGION_BYTES", rig.expected[:3].nbytes)
    assert rig.is_right(remote)


def test_a_region_that_the_server_does_not_know_costs_no_answer(remote: TritonEmbedder, rig: Rig) -> None:
    """The faces are sent without it, and the next batch has a new region."""
    assert rig.is_right(remote)
    (lost,) = rig.known
    rig.call("Unregister", name=lost)
    assert rig.is_right(remote)
    assert rig.is_right(remote)
    assert rig.known == list_files() != {lost}
    assert [path for path, _ in rig.paths] == ["system_shared_memory"]


@pytest.mark.slow
def test_a_restarted_server_maps_new_regions(remote: TritonEmbedder, rig: Rig) -> None:
    """The same client shares memory with it again."""
    assert rig.is_right(remote)
    rig.server.kill()
    rig.server.start()
    wait_until(lambda: answers(rig.bundle, remote))
    assert rig.is_right(remote)
    assert rig.known == list_files() != set()


def test_a_region_of_unanswered_requests_is_not_used_again(remote: TritonEmbedder, rig: Rig) -> None:
    """It stays as long as the server may write to it, and is freed then."""
    assert rig.is_right(remote)
    (late,) = rig.known
    remote._timeout_s = 0.05  # noqa: SLF001 - the same client, in a hurry
    with pytest.raises(TritonUnavailable, match="DEADLINE"):
        remote.embed(rig.faces * 25)
    files = list_files()
    assert late in files or late not in rig.known
    remote._timeout_s = 20  # noqa: SLF001 - as above
    wait_until(lambda: rig.is_right(remote) and late not in list_files())
    assert rig.known == list_files() != set()


@pytest.mark.parametrize(
    ("kind", "fields"), [("System", {"key": "/elsewhere"}), ("Cuda", {"raw_handle": bytes(64)})], ids=["host", "gpu"]
)
def test_what_cannot_be_shared_comes_in_answers(
    rig: Rig, kind: str, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory of another host, or of a GPU that the server has not: the refusal is reported once."""

    class Elsewhere(regions.SystemRegion):
        def __init__(self) -> None:
            super().__init__()
            self.fields = fields

    Elsewhere.kind = kind
    monkeypatch.setitem(regions.ALLOCATORS, "cpu", Elsewhere)
    with closing(rig.connect(rig.bundle, rig.server.url)) as remote:
        assert rig.is_right(remote)
        assert rig.is_right(remote)
    ((path, why),) = rig.paths
    assert path == "host"
    assert "cannot share memory" in why


def test_features_too_large_for_a_row_are_another_bundles(rig: Rig) -> None:
    """The server does not write beyond a row, and this is no outage."""
    other = replace(rig.bundle, manifest=rig.bundle.manifest.model_copy(update={"feature_size": 4}))
    with closing(rig.connect(other, rig.server.url)) as remote, pytest.raises(BundleMismatch, match="another bundle"):
        remote.embed(rig.faces)


CRASH = """
import os, sys, grpc
from tritonclient.grpc import service_pb2_grpc
from scorer.engines.triton.regions import DeviceStream, RegionPool
service = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(sys.argv[1]))
borrowed = RegionPool(service, DeviceStream("cpu"), print).borrow()
borrowed.__enter__()
os.kill(os.getpid(), 9)
"""


def test_a_killed_worker_leaves_nothing(remote: TritonEmbedder, rig: Rig) -> None:
    """The system's memory is removed at once, the server's mapping when the host's next worker starts."""
    with subprocess.Popen([sys.executable, "-c", CRASH, rig.server.url], cwd=ROOT) as worker:
        worker.wait()
    wait_until(lambda: not list_files(worker.pid))
    assert len(rig.known) == 1
    assert rig.is_right(remote)
    assert rig.known == list_files()


@pytest.mark.slow
def test_several_servers_share_no_memory(rig: Rig, triton_python: Path, tmp_path: Path) -> None:
    """A region is known to one of those that answer in turn: features come in answers, and none is lost."""
    with (
        TritonServer(ROOT / "model_repository", tmp_path, triton_python) as second,
        closing(rig.connect(rig.bundle, f"ipv4:{rig.server.url},{second.url}")) as both,
    ):
        wait_until(lambda: answers(rig.bundle, both))
        assert all(rig.is_right(both) for _ in range(5))
    assert rig.paths[-1][0] == "host"
