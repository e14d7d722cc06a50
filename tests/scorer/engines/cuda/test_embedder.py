"""The embedder of the GPU's room, rehearsed on the CPU: real decoding, the real graph, the real mixture."""

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


def break_image(face: EncodedFace) -> EncodedFace:
    """Return the whole picture of a face as a JPEG that passes the gate and whose pixels cannot be decoded."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(face.data)).convert("RGB").save(buffer, "JPEG")
    data = buffer.getvalue()
    start, stop = len(data) // 3, len(data) - 20
    data = data[:start] + (b"\xa5\x5a" * len(data))[: stop - start] + data[stop:]
    return EncodedFace(data, probe_image(data), Window(0, 0, 512, 512))


def test_features_are_those_of_crop_and_engine(
    gpu_bundle: Bundle, embedder: CudaEmbedder, engine: OnnxRuntimeEngine, faces: list[EncodedFace]
) -> None:
    """More faces than are taken at once come back in order, each as the CPU's cropper and the engine give it."""
    batch = embedder.embed(faces)
    crops = np.stack(FaceCropper(gpu_bundle.model.preprocess, 1, 8).crop(faces))
    np.testing.assert_allclose(batch.features, engine.run(crops), atol=1e-3 * batch.features.max())
    expected = [measure_high_band(crop) for crop in crops]
    expected[0] = expected[2] = np.nan  # enlarged
    np.testing.assert_allclose(batch.high_band, expected, rtol=1e-4, equal_nan=True)
    assert not batch.failures


def test_the_mixture_weighs_where_the_features_are(
    gpu_bundle: Bundle, embedder: CudaEmbedder, faces: list[EncodedFace]
) -> None:
    """Likelihoods come back as NumPy's float64 and are the CPU's, up to single precision; so do the features."""
    batch, mixture = embedder.embed(faces), gpu_bundle.model.mixture
    found = batch.log_likelihood(mixture)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, log_likelihood(batch.features, mixture), rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(batch.on_host().log_likelihood(mixture), found, rtol=1e-6, atol=1e-3)
    with pytest.raises(ValueError, match="opened with"):
        batch.log_likelihood(stack_mixture(make_mixture(2, 768)))


def test_a_broken_face_costs_its_own_row(embedder: CudaEmbedder, faces: list[EncodedFace]) -> None:
    """Its row is NaN and typed, wherever it stands; its neighbours' numbers are what they are without it."""
    alone = embedder.embed(faces).features
    broken = break_image(faces[0])
    batch = embedder.embed([faces[0], broken, *faces[1:], broken])
    assert {row: failure.reason for row, failure in batch.failures.items()} == dict.fromkeys((1, 5), Reason.UNDECODABLE)
    assert np.isnan(batch.features[[1, 5]]).all()
    assert np.isnan(batch.high_band[[1, 5]]).all()
    np.testing.assert_allclose(batch.features[[0, 2, 3, 4]], alone, atol=1e-3 * alone.max())


def test_no_face_is_an_empty_batch(gpu_bundle: Bundle, embedder: CudaEmbedder) -> None:
    """Nothing in, nothing out, of the right width."""
    batch = embedder.embed([])
    assert batch.features.shape == (0, 768)
    assert batch.log_likelihood(gpu_bundle.model.mixture).shape == (0,)


def test_shared_embedders_work_at_once(embedder: CudaEmbedder, faces: list[EncodedFace]) -> None:
    """Another thread's embedder over the same weights gives the same features."""
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
def test_a_want_of_memory_halves_the_batch(
    gpu_bundle: Bundle, engine: OnnxRuntimeEngine, faces: list[EncodedFace], error: Callable[[], Exception]
) -> None:
    """Whoever lacks memory: the batch is halved until it fits, stays so, and every face has its features."""
    short = ShortOfMemory(engine, 2, error)
    embedder = CudaEmbedder(gpu_bundle.model, short, 1, "cpu", max_crops=8)
    features = embedder.embed(faces * 2).features
    np.testing.assert_allclose(features[:4], features[4:], atol=1e-3 * features.max())
    assert short.batches == [8, 4, 2, 2, 2, 2]
    assert embedder.max_crops == 2


def test_no_memory_for_one_face_is_no_answer_now(
    gpu_bundle: Bundle, engine: OnnxRuntimeEngine, faces: list[EncodedFace]
) -> None:
    """Down to one face and still none: the same faces may be asked for later, and the sentence says why."""
    short = ShortOfMemory(engine, 0, lambda: MemoryError("CUDA allocation failed"))
    embedder = CudaEmbedder(gpu_bundle.model, short, 1, "cpu", max_crops=4)
    with pytest.raises(BackendUnavailable, match=r"no memory for one face \(CUDA allocation failed\)"):
        embedder.embed(faces)


def test_results_are_scored_through_it(
    gpu_bundle: Bundle, embedder: CudaEmbedder, portrait: bytes, faces: list[EncodedFace]
) -> None:
    """The pure heart takes its batches as any other: likelihoods, detail and failures reach the results."""
    request = ScoreRequest(request_id="r", content_id="c", image=ImageSource(uri="file:///portrait.png"))
    located = tuple(LocatedFace(str(i), FaceBox(*box), None) for i, box in enumerate(BOXES))
    image = LocatedImage(request, portrait, probe_image(portrait), located, None, 0.0)
    result = score_batch([image], embedder, gpu_bundle.model, lambda _: Policy(min_face_px=32))[0]
    expected = embedder.embed(faces).log_likelihood(gpu_bundle.model.mixture)
    np.testing.assert_allclose([face.log_likelihood for face in result.faces], expected, rtol=1e-5)
    assert ["high_band" in face.quality for face in result.faces] == [False, True, False, True]


def test_golden_faces_tell_another_network(gpu_bundle: Bundle, embedder: CudaEmbedder) -> None:
    """The answers on record are the starter's, and this network does not pass for it; its own answers pass."""
    with pytest.raises(BundleMismatch, match="nats away from the golden answers"):
        verify_engine(gpu_bundle, embedder)
    assert embed_golden(gpu_bundle.golden, gpu_bundle, embedder).features.shape == (3, 768)


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


def test_a_gpu_lost_in_the_network_ends_the_process(gpu_bundle: Bundle, root: Path) -> None:
    """An error that no batch size cures ends the process from inside the embedder, without a traceback."""
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
