"""What the client makes of a live server's answers, silences and ends."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deploy.local.triton import ROOT, TritonServer
from ingest.probe import DEFAULT_LIMITS, EncodedFace, probe_image
from ingest.reasons import Reason
from ingest.spec import Window
from scorer.bundle.bundle import Bundle
from scorer.engines.base import FeatureBatch
from scorer.engines.openvino import LocalEmbedder
from scorer.engines.triton.embedder import TritonEmbedder, TritonUnavailable
from scorer.engines.verify import verify_engine
from scorer.settings import TritonSettings


@contextlib.contextmanager
def connect(bundle: Bundle, **settings: object) -> Iterator[TritonEmbedder]:
    """Yield a client and close it."""
    embedder = TritonEmbedder(bundle, TritonSettings.model_validate(settings))
    try:
        yield embedder
    finally:
        embedder.close()


@pytest.fixture(scope="module")
def remote(starter: Bundle, triton: TritonServer) -> Iterator[TritonEmbedder]:
    """A client of the live server, which outlives the server's restarts."""
    with connect(starter, url=triton.url) as embedder:
        yield embedder


@pytest.fixture(autouse=True)
def _restore(triton: TritonServer) -> Iterator[None]:
    """Restart the shared server where a test left it without a backend, so that one failure is one failure."""
    yield
    if not triton.healthy:
        triton.kill()
        triton.start()


@pytest.fixture(scope="module")
def face(portrait: bytes) -> EncodedFace:
    """The portrait's face."""
    return EncodedFace(portrait, probe_image(portrait), Window(160, 60, 140, 140))


def forge(face: EncodedFace, data: bytes) -> EncodedFace:
    """Return `face` with other bytes and the same facts, as a dishonest client would send it."""
    return replace(face, data=data)


def make_hostile(face: EncodedFace) -> dict[Reason, EncodedFace]:
    """Return one face for each refusal that the server itself must know."""
    huge = replace(face.info, width=10_000, height=10_000)
    return {
        Reason.EMPTY: forge(face, b""),
        Reason.UNSUPPORTED_FORMAT: forge(face, b"no picture at all"),
        Reason.TRUNCATED: forge(face, face.data[: len(face.data) // 2]),
        Reason.UNDECODABLE: forge(face, face.data[:5000] + bytes(2000) + face.data[7000:]),
        Reason.TOO_MANY_BYTES: forge(face, bytes(DEFAULT_LIMITS.max_bytes + 1)),
        Reason.BOX_OUTSIDE_IMAGE: EncodedFace(face.data, huge, Window(5000, 5000, 100, 100)),
    }


def test_bad_faces_cost_their_own_row_only(remote: TritonEmbedder, embedder: LocalEmbedder, face: EncodedFace) -> None:
    """The server probes each image again; each bad face has its reason, the other faces keep their bits."""
    expected = embedder.embed([face]).features[0]
    hostile = make_hostile(face)
    batch = remote.embed([mixed for bad in hostile.values() for mixed in (face, bad)])
    assert {row: failure.reason for row, failure in batch.failures.items()} == {
        2 * number + 1: reason for number, reason in enumerate(hostile)
    }
    assert np.isnan(batch.features[1::2]).all()
    assert all(np.array_equal(row, expected) for row in batch.features[::2])


def test_no_faces_are_no_rows(remote: TritonEmbedder, starter: Bundle) -> None:
    """An empty batch is answered without the server."""
    assert remote.embed([]).features.shape == (0, starter.manifest.feature_size)


@pytest.mark.slow
def test_threads_share_a_client(remote: TritonEmbedder, embedder: LocalEmbedder, face: EncodedFace) -> None:
    """Batches of several threads, more than may be in flight together, keep to themselves."""
    windows = [replace(face, window=Window(8 * step, 60, 140, 140)) for step in range(40)]
    expected = embedder.embed(windows).features
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(remote.embed, [windows] * 8))
    assert all(np.array_equal(batch.features, expected) for batch in batches)


def test_overload_is_said_and_leaves_nothing_behind(
    starter: Bundle, remote: TritonEmbedder, face: EncodedFace, triton: TritonServer
) -> None:
    """Faces beyond their deadline are named and not blamed; the next batch is answered as usual."""
    with connect(starter, url=triton.url, timeout_s=0.05) as hurried, pytest.raises(TritonUnavailable) as caught:
        hurried.embed([face] * 100)
    assert "DEADLINE_EXCEEDED" in str(caught.value)
    assert triton.url in str(caught.value)
    assert caught.value.rows[-1] == 99
    assert not caught.value.blames_faces
    assert not remote.embed([face] * 3).failures


@pytest.mark.slow
def test_a_server_killed_in_mid_batch_is_found_again(
    remote: TritonEmbedder, starter: Bundle, face: EncodedFace, triton: TritonServer
) -> None:
    """What was in flight is named, and the same client scores as soon as the server is back."""
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(remote.embed, [face] * 2000)
        wait_until(lambda: remote.in_flight > 0)
        triton.kill()
        with pytest.raises(TritonUnavailable) as caught:
            batch.result()
    assert caught.value.rows[-1] == 1999
    triton.start()
    wait_until(lambda: answers(starter, remote))


@pytest.mark.slow
def test_a_killed_backend_is_blamed_on_faces_and_replaced(
    remote: TritonEmbedder, starter: Bundle, face: EncodedFace, triton: TritonServer
) -> None:
    """A face may have crashed the server, so the error states that; scoring resumes after the supervised restart."""
    backend, stop = psutil.Process(triton.pid).children(recursive=True)[0], threading.Event()
    with ThreadPoolExecutor(2) as pool:
        batch = pool.submit(remote.embed, [face] * 2000)
        wait_until(lambda: remote.in_flight > 0)
        assert triton.healthy
        backend.kill()
        with pytest.raises(TritonUnavailable) as caught:
            batch.result()
        assert not triton.healthy
        assert not answers(starter, remote)
        supervision = pool.submit(triton.supervise, stop)
        try:
            wait_until(lambda: answers(starter, remote), limit_s=60)
        finally:
            stop.set()  # the pool waits for the supervision
        supervision.result()
    # Sometimes the server ends with its backend, and no request gets an answer that could blame a face.
    assert caught.value.blames_faces or "UNAVAILABLE" in str(caught.value)


@pytest.fixture(scope="module")
def second(triton_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Another server of the same bundle, which tells its clients every half second to connect anew."""
    options = ["--grpc-max-connection-age=500", "--grpc-max-connection-age-grace=20000"]
    scratch = tmp_path_factory.mktemp("second")
    with TritonServer(ROOT / "model_repository", scratch, triton_python, options=options) as server:
        yield server


def count_answers(server: TritonServer) -> int:
    """Return how many requests a server has answered."""
    with grpc.insecure_channel(server.url) as channel:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStatistics
        (model,) = ask(service_pb2.ModelStatisticsRequest(name="face_features"), timeout=10).model_stats
    return int(model.inference_stats.success.count)


def embed_again(client: TritonEmbedder, faces: list[EncodedFace]) -> FeatureBatch:
    """Embed faces, once more where a connection that ended took a request with it, as the service does."""
    with contextlib.suppress(TritonUnavailable):
        return client.embed(faces)
    return client.embed(faces)


@pytest.mark.slow
def test_servers_take_turns(starter: Bundle, triton: TritonServer, second: TritonServer, face: EncodedFace) -> None:
    """Where a name has several addresses, as a headless Service has, each server gets half of one client's requests."""
    servers = (triton, second)
    with connect(starter, url=f"ipv4:{triton.url},{second.url}") as both:
        wait_until(lambda: answers(starter, both))
        before = [count_answers(server) for server in servers]
        for _ in range(4):
            embed_again(both, [face] * 50)
        taken = [count_answers(server) - count for server, count in zip(servers, before, strict=True)]
    assert sum(taken) >= 200
    assert min(taken) > 50  # a connection that is made anew misses a few turns


@pytest.mark.slow
def test_one_of_two_servers_ends(
    starter: Bundle, triton: TritonServer, second: TritonServer, face: EncodedFace
) -> None:
    """What was in flight at the one that ended is named; the other answers everything from then on."""
    with connect(starter, url=f"ipv4:{triton.url},{second.url}") as both:
        wait_until(lambda: answers(starter, both))
        second.kill()
        try:
            wait_until(lambda: answers(starter, both))
            assert not both.embed([face] * 50).failures
        finally:
            second.start()


def test_an_old_connection_is_replaced_without_a_loss(
    starter: Bundle, second: TritonServer, embedder: LocalEmbedder, face: EncodedFace
) -> None:
    """A server that bounds the age of connections, so that its clients look for new servers, costs no answer."""
    expected = embedder.embed([face]).features
    end = time.monotonic() + 3
    with connect(starter, url=second.url) as client:
        while time.monotonic() < end:
            assert np.array_equal(embed_again(client, [face]).features, expected)


def test_nobody_there_is_an_outage(starter: Bundle, face: EncodedFace, triton: TritonServer) -> None:
    """The error of a port without a server names the address, and so does that of a closed client."""
    with (
        connect(starter, url="127.0.0.1:1") as embedder,
        pytest.raises(TritonUnavailable, match=r"127\.0\.0\.1:1 ") as caught,
    ):
        embedder.embed([face])
    assert caught.value.rows == (0,)
    embedder = TritonEmbedder(starter, TritonSettings(url=triton.url))
    embedder.close()
    with pytest.raises(TritonUnavailable, match="closed"):
        embedder.embed([face])


def wait_until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(bundle: Bundle, embedder: TritonEmbedder) -> bool:
    """Whether the server gives the golden answers."""
    try:
        return verify_engine(bundle, embedder) < bundle.manifest.golden_tolerance_nats
    except TritonUnavailable:
        return False
