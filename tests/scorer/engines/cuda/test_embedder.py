"""The embedder of a GPU, run on the CPU: real decoding, a real graph, the real mixture."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cupy
import numpy as np
import pytest
from PIL import Image

from ingest.dali import FaceCropper
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason
from ingest.resampling import measure_high_band
from ingest.spec import FaceBox, Window
from scorer.bundle.bundle import Bundle
from scorer.decide import Policy
from scorer.engines.cuda.embedder import CudaEmbedder
from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine
from scorer.engines.onnx_runtime import onnxruntime
from scorer.engines.verify import embed_golden, verify_engine
from scorer.errors import BackendUnavailable, BundleMismatch
from scorer.locate import LocatedFace, LocatedImage
from scorer.messages import ImageSource, ScoreRequest
from scorer.mixture import log_likelihood, stack_mixture
from scorer.score import score_batch
from tests.scorer.engines.cuda.broken_engine import ShortOfMemory
from tests.scorer.engines.cuda.test_mixture import make_mixture

BOXES = [(172.0, 70.0, 100.0, 132.0), (150.0, 60.0, 250.0, 250.0), (0.0, 0.0, 60.0, 60.0), (200.0, 100.0, 300.0, 300.0)]


@pytest.fixture(scope="module")
def engine(gpu_bundle: Bundle) -> OnnxRuntimeEngine:
    """The bundle's graph on the CPU."""
    return OnnxRuntimeEngine(gpu_bundle.extractor, gpu_bundle.manifest, "cpu")


@pytest.fixture(scope="module")
def embedder(gpu_bundle: Bundle, engine: OnnxRuntimeEngine) -> CudaEmbedder:
    """An embedder that takes three crops at once."""
    return CudaEmbedder(gpu_bundle.model, engine, 1, "cpu", max_crops=3)


@pytest.fixture
def faces(gpu_bundle: Bundle, portrait: bytes) -> list[EncodedFace]:
    """Four windows of the portrait, two of them smaller than a crop."""
    info, spec = probe_image(portrait), gpu_bundle.model.preprocess
    found = [EncodedFace.around(portrait, info, FaceBox(*box), spec) for box in BOXES]
    return [face for face in found if face]


def damage_image(face: EncodedFace) -> EncodedFace:
    """Return the whole picture of a face as a JPEG whose header is read and whose pixels cannot be decoded."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(face.data)).convert("RGB").save(buffer, "JPEG")
    data = buffer.getvalue()
    start, stop = len(data) // 3, len(data) - 20
    data = data[:start] + (b"\xa5\x5a" * len(data))[: stop - start] + data[stop:]
    return EncodedFace(data, probe_image(data), Window(0, 0, 512, 512))


def test_features_are_those_of_crop_and_engine(
    gpu_bundle: Bundle, embedder: CudaEmbedder, engine: OnnxRuntimeEngine, faces: list[EncodedFace]
) -> None:
    """More faces than fit at once keep their order; each has the features of the CPU's cropper and the engine."""
    batch = embedder.embed(faces)
    crops = np.stack(FaceCropper(gpu_bundle.model.preprocess, 1, 8).crop(faces))
    np.testing.assert_allclose(batch.features, engine.run(crops), atol=1e-3 * batch.features.max())
    expected = [measure_high_band(crop) for crop in crops]
    expected[0] = expected[2] = np.nan  # enlarged
    np.testing.assert_allclose(batch.high_band, expected, rtol=1e-4, equal_nan=True)
    assert not batch.failures


def test_likelihoods_are_computed_on_the_device(
    gpu_bundle: Bundle, embedder: CudaEmbedder, faces: list[EncodedFace]
) -> None:
    """Likelihoods are float64 arrays of NumPy and equal the CPU's up to single precision; so do those of the host."""
    batch, mixture = embedder.embed(faces), gpu_bundle.model.mixture
    found = batch.log_likelihood(mixture)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, log_likelihood(batch.features, mixture), rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(batch.on_host().log_likelihood(mixture), found, rtol=1e-6, atol=1e-3)
    with pytest.raises(ValueError, match="opened with"):
        batch.log_likelihood(stack_mixture(make_mixture(2, gpu_bundle.manifest.feature_size)))


def test_a_damaged_face_fails_alone(embedder: CudaEmbedder, faces: list[EncodedFace]) -> None:
    """Its row is NaN and has a reason, at any place in the batch; the other rows are as without it."""
    alone = embedder.embed(faces).features
    damaged = damage_image(faces[0])
    batch = embedder.embed([faces[0], damaged, *faces[1:], damaged])
    assert {row: failure.reason for row, failure in batch.failures.items()} == dict.fromkeys((1, 5), Reason.UNDECODABLE)
    assert np.isnan(batch.features[[1, 5]]).all()
    assert np.isnan(batch.high_band[[1, 5]]).all()
    np.testing.assert_allclose(batch.features[[0, 2, 3, 4]], alone, atol=1e-3 * alone.max())


def test_no_face_is_an_empty_batch(gpu_bundle: Bundle, embedder: CudaEmbedder) -> None:
    """No face gives no row, with the width of the features."""
    batch = embedder.embed([])
    assert batch.features.shape == (0, gpu_bundle.manifest.feature_size)
    assert batch.log_likelihood(gpu_bundle.model.mixture).shape == (0,)


def test_a_shared_embedder_gives_the_same_features(embedder: CudaEmbedder, faces: list[EncodedFace]) -> None:
    """An embedder for another thread has the same weights."""
    np.testing.assert_allclose(embedder.share().embed(faces).features, embedder.embed(faces).features, rtol=1e-6)


@pytest.mark.parametrize(
    "error",
    [
        lambda: cupy.cuda.memory.OutOfMemoryError(1, 2, 3),
        lambda: onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 1024"
        ),
        lambda: MemoryError("CUDA allocation failed"),
    ],
    ids=["CuPy", "ONNX Runtime", "DALI"],
)
def test_too_little_memory_halves_the_batch(
    gpu_bundle: Bundle, engine: OnnxRuntimeEngine, faces: list[EncodedFace], error: Callable[[], Exception]
) -> None:
    """For each library's error the batch is halved until it fits, stays small, and every face has its features."""
    short = ShortOfMemory(engine, 2, error)
    embedder = CudaEmbedder(gpu_bundle.model, short, 1, "cpu", max_crops=8)
    features = embedder.embed(faces * 2).features
    np.testing.assert_allclose(features[:4], features[4:], atol=1e-3 * features.max())
    assert short.batches == [8, 4, 2, 2, 2, 2]
    assert embedder.max_crops == 2


def test_no_memory_for_one_face_is_a_temporary_error(
    gpu_bundle: Bundle, engine: OnnxRuntimeEngine, faces: list[EncodedFace]
) -> None:
    """A batch of one face does not fit either: a later call may succeed, and the message states the cause."""
    short = ShortOfMemory(engine, 0, lambda: MemoryError("CUDA allocation failed"))
    embedder = CudaEmbedder(gpu_bundle.model, short, 1, "cpu", max_crops=4)
    with pytest.raises(BackendUnavailable, match=r"no memory for one face \(CUDA allocation failed\)"):
        embedder.embed(faces)


def test_results_are_scored_through_it(
    gpu_bundle: Bundle, embedder: CudaEmbedder, portrait: bytes, faces: list[EncodedFace]
) -> None:
    """`score_batch` accepts its batches: likelihoods, detail and failures reach the results."""
    request = ScoreRequest(request_id="r", content_id="c", image=ImageSource(uri="file:///portrait.png"))
    located = tuple(LocatedFace(str(i), FaceBox(*box), None) for i, box in enumerate(BOXES))
    image = LocatedImage(request, portrait, probe_image(portrait), located, None, 0.0)
    result = score_batch([(image, Policy(min_face_px=32))], embedder, gpu_bundle.model)[0]
    expected = embedder.embed(faces).log_likelihood(gpu_bundle.model.mixture)
    np.testing.assert_allclose([face.log_likelihood for face in result.faces], expected, rtol=1e-5)
    assert ["high_band" in face.quality for face in result.faces] == [False, True, False, True]


def test_golden_faces_detect_another_network(gpu_bundle: Bundle, embedder: CudaEmbedder) -> None:
    """The recorded features are the starter's: this network fails the check."""
    with pytest.raises(BundleMismatch, match="nats away from the golden answers"):
        verify_engine(gpu_bundle, embedder)
    found = embed_golden(gpu_bundle.golden, gpu_bundle, embedder).features
    assert found.shape == (3, gpu_bundle.manifest.feature_size)


LOSING = """
from pathlib import Path
import cupy
from scorer.bundle.bundle import read_bundle
from scorer.engines.cuda.embedder import CudaEmbedder
from scorer.engines.verify import embed_golden

class LosingEngine:
    max_batch = 8

    def run(self, crops):
        raise cupy.cuda.runtime.CUDARuntimeError(719)

bundle, engine = read_bundle(Path({folder!r})), LosingEngine()
embed_golden(bundle.golden, bundle, CudaEmbedder(bundle.model, engine, 1, "cpu"))
"""


def test_the_process_exits_if_the_network_loses_the_gpu(gpu_bundle: Bundle, root: Path) -> None:
    """The embedder exits with code 71 on a sticky error, without a traceback."""
    run = subprocess.run(
        [sys.executable, "-c", LOSING.format(folder=str(gpu_bundle.folder))],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 71, run.stderr
    assert "cudaErrorLaunchFailure" in run.stderr
    assert "Traceback" not in run.stderr
