"""The same faces in processes with other kernels, threads and instructions: no bit differs.

Not covered: a CPU of another maker. Its libraries choose among the kernels that are forced here.
"""

import io
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingest.device import read_cpu_flags
from scorer.bundle.bundle import Bundle
from tests.parity.test_three_jobs import make_photographs

PICTURES = 16
ROWS = 500
LARGE_PX = 1800  # side of a portrait whose face fills a crop with detail, so that the high band is measured

# Prints digests of the results of each step for every picture.
PROGRAM = """
import hashlib, json, sys
from contextlib import closing
from pathlib import Path
import numpy as np
from ingest import resampling
from ingest.dali import FaceCropper
from ingest.detect import load_detector
from ingest.probe import EncodedFace, probe_image
from ingest.yunet import decode_grid
from scorer.bundle.bundle import read_bundle
from scorer.decide import p_values
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from scorer.engines.local import open_sandbox
from scorer.engines.openvino import LocalEmbedder

def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()

folder = Path(sys.argv[2])
bundle = read_bundle(Path(sys.argv[1]))
model = bundle.model
detector = load_detector(bundle.folder, bundle.manifest.detector, 1)
boxes, faces = [], []
for path in sorted(folder.glob("*.picture")):
    data = path.read_bytes()
    info = probe_image(data)
    for found in detector.detect(data, info):
        boxes.append((*found.box.as_tuple(), found.confidence))
        faces.append(EncodedFace.around(data, info, found.box, model.preprocess))
crops = [crop for crop in FaceCropper(model.preprocess, 1, 8).crop(faces)]
with closing(open_sandbox(bundle, 1)) as sandbox:
    batch = LocalEmbedder(bundle, 1, sandbox).embed(faces)
likelihoods = batch.log_likelihood(model.mixture)
arrays = np.load(folder / "mixture.npz")
cells = np.linspace(-5, 5, 28 * 32 * 6, dtype=np.float32).reshape(32, 28, 6)
large = GaussianMixture(*(arrays[name] for name in ("weights", "means", "factors")))
print(json.dumps({
    "faces": len(faces),
    "measured": int(np.isfinite(batch.high_band).sum()),
    "confidences": digest(decode_grid(cells, stride=8, min_confidence=0.0)),
    "boxes": digest(np.array(boxes)),
    "crops": digest(*crops),
    "features": digest(batch.features),
    "high band": digest(batch.high_band, *(resampling.measure_high_bands(crop[None], np) for crop in crops)),
    "log-likelihoods": digest(likelihoods),
    "p-values": digest(p_values(likelihoods, model.calibration.pooled)),
    "of a mixture of the paper's size": digest(log_likelihood(arrays["features"], stack_mixture(large))),
}))
"""


def disable(*kept: str) -> dict[str, str]:
    """Return the variable that disables NumPy's kernels for this CPU, except for those in `kept`."""
    found = np.show_config("dicts")["SIMD Extensions"]["found"]  # type: ignore[index]  # untyped
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(name for name in found if name not in kept)}


ENVIRONMENTS = {
    "one thread": {"OPENBLAS_NUM_THREADS": "1"},
    "two threads": {"OPENBLAS_NUM_THREADS": "2"},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "Zen": {"OPENBLAS_CORETYPE": "Zen"},
    "SkylakeX": {"OPENBLAS_CORETYPE": "SkylakeX"},
    "NumPy for AVX2": disable("X86_V3", "AVX2", "FMA3", "AVX", "F16C"),
    "NumPy for SSE4.2": disable(),
    "networks for AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"},
    "networks for AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "C libraries for SSE2": {"JSIMD_FORCESSE2": "1", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F"},
}
# In the fast suite: kernels of BLAS and of networks. In the slow tests: threads, kernels of NumPy.
MARKS = {"Haswell": (), "networks for AVX2": (), "one thread": pytest.mark.slow, "NumPy for SSE4.2": pytest.mark.slow}
_NUMERIC = ("OPENBLAS_", "NPY_", "ONEDNN_", "OV_", "JSIMD_", "GLIBC_")


@pytest.fixture(scope="module")
def folder(portrait: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Different photographs of the astronaut, one of them large, and a mixture of eight components."""
    folder = tmp_path_factory.mktemp("same-bits")
    large = io.BytesIO()
    Image.open(io.BytesIO(portrait)).convert("RGB").resize((LARGE_PX, LARGE_PX)).save(large, "JPEG")
    photographs = [portrait, large.getvalue(), *(data for data, _ in islice(make_photographs(portrait), PICTURES))]
    for number, data in enumerate(photographs):
        (folder / f"{number:02}.picture").write_bytes(data)
    rng = np.random.default_rng(5)
    factors = np.triu(rng.normal(scale=0.02, size=(8, 768, 768)), 1) + np.eye(768)
    features = rng.normal(size=(ROWS, 768)).astype(np.float32)
    np.savez(
        folder / "mixture.npz",
        weights=np.full(8, 1 / 8),
        means=rng.normal(size=(8, 768)),
        factors=factors,
        features=features,
    )
    return folder


def compute(root: Path, bundle: Bundle, folder: Path, **variables: str) -> dict[str, object]:
    """Run `PROGRAM` with only the given numeric variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_NUMERIC)}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, bundle.folder, folder],
        cwd=root,
        env=clean | {"PYTHONPATH": str(root)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    answers: dict[str, object] = json.loads(ended.stdout)
    return answers


@pytest.fixture(scope="module")
def expected(root: Path, starter: Bundle, folder: Path) -> dict[str, object]:
    """The results of a process whose libraries choose their kernels."""
    return compute(root, starter, folder)


def test_there_is_something_to_compare(expected: dict[str, object]) -> None:
    """Faces are found, and the high band of the large one is measured."""
    assert int(str(expected["faces"])) > PICTURES
    assert int(str(expected["measured"])) > 0


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, pytest.mark.long)) for name in ENVIRONMENTS])
def test_no_bit_depends_on_kernels(
    root: Path, starter: Bundle, folder: Path, expected: dict[str, object], name: str
) -> None:
    """Boxes, crops, features, log-likelihoods and p-values are the same in every process."""
    if name == "SkylakeX" and "avx512f" not in read_cpu_flags():
        pytest.skip("this CPU cannot run those kernels")
    assert compute(root, starter, folder, **ENVIRONMENTS[name]) == expected


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA"])
def test_older_instructions_are_refused(root: Path, folder: Path, name: str) -> None:
    """With instructions that give other results, a job exits with a message and code 78 before it scores."""
    ended = subprocess.run(
        [Path(sys.executable).parent / "unlensed", "score", folder / "00.picture", "--json"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), name: "SSE41"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (78, "")
    assert f"AVX2 and FMA, but {name} is SSE41 (unset it)" in ended.stderr
