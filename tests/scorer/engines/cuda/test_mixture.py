"""The mixture on the device: its layout in NumPy; its kernel compiled for GPUs, and run as C++ on the CPU."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from scorer.bundle.bundle import Bundle
from scorer.engines.cuda import mixture as device
from scorer.engines.cuda.mixture import KERNEL, KERNEL_NAME, THREADS, DeviceMixture
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture

NATS = 1e-3
Epilogue = Callable[[NDArray[np.float32], DeviceMixture], NDArray[np.float32]]


def make_mixture(components: int, size: int, *, diagonal: bool = False) -> GaussianMixture:
    """Return a mixture of separate components whose standard deviations differ tenfold."""
    rng = np.random.default_rng(components * size)
    means = rng.normal(0, 3, (components, size))
    factors = rng.uniform(0.3, 3, (components, size))
    if not diagonal:
        upper = np.triu(rng.normal(0, 0.3 / np.sqrt(size), (components, size, size)), 1)
        factors = upper + factors[:, :, None] * np.eye(size)
    return GaussianMixture(rng.dirichlet(np.full(components, 5.0)), means, factors)


def draw_features(mixture: GaussianMixture, count: int) -> NDArray[np.float32]:
    """Return features near the components, one far from all, and one in the middle."""
    rng = np.random.default_rng(1)
    near = mixture.means[rng.integers(0, len(mixture.means), count)] + rng.normal(0, 1, (count, mixture.means.shape[1]))
    near[1], near[2] = 20, 0
    return near.astype(np.float32)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("components", "size"), [(1, 5), (4, 4), (8, 768)])
def test_the_layout_gives_the_likelihood(components: int, size: int, *, diagonal: bool) -> None:
    """One product and one step after it give the double-precision likelihood to a thousandth of a nat."""
    mixture = make_mixture(components, size, diagonal=diagonal)
    stacked = stack_mixture(mixture)
    features = draw_features(mixture, 40)
    found = DeviceMixture(stacked, np).log_likelihood(features)
    assert found.dtype == np.float32
    expected = log_likelihood(features.astype(np.float64), stacked)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=NATS)


def test_many_faces_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace for three faces gives ten faces the same likelihoods as one for all of them."""
    mixture = make_mixture(2, 8)
    features = draw_features(mixture, 10)
    at_once = DeviceMixture(stack_mixture(mixture), np).log_likelihood(features)
    monkeypatch.setattr(device, "WORKSPACE_BYTES", 3 * 4 * 2 * 8)
    np.testing.assert_allclose(DeviceMixture(stack_mixture(mixture), np).log_likelihood(features), at_once, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_gives_nan(bad: float) -> None:
    """A value that is not finite makes its own row NaN, and no other row."""
    mixture = make_mixture(3, 6)
    features = draw_features(mixture, 5)
    features[3, 2] = bad
    found = DeviceMixture(stack_mixture(mixture), np).log_likelihood(features)
    assert np.isnan(found).tolist() == [False, False, False, True, False]


def test_the_starter_s_golden_faces_score_the_same(starter: Bundle) -> None:
    """The golden faces have their recorded likelihoods."""
    golden = starter.golden
    found = DeviceMixture(starter.model.mixture, np).log_likelihood(golden.features)
    np.testing.assert_allclose(found, golden.log_likelihoods, atol=NATS)


def test_the_kernel_compiles_for_a_gpu() -> None:
    """NVIDIA's compiler accepts the source for every supported architecture, without a GPU."""
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed: extra gpu")
    for architecture in (80, 90, 100, 120):
        program = nvrtc.createProgram(KERNEL, "kernel.cu", (), ())
        nvrtc.compileProgram(program, (f"--gpu-architecture=sm_{architecture}",))
        assert KERNEL_NAME.encode() in nvrtc.getCUBIN(program)


@pytest.fixture(scope="module")
def epilogue(tmp_path_factory: pytest.TempPathFactory) -> Epilogue:
    """The kernel's source compiled as C++, where each thread of the block is a thread."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.cu").write_text(KERNEL)
    shutil.copy(Path(__file__).parent / "epilogue_shim.cpp", folder)
    options = ["-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *options, "epilogue_shim.cpp", "-o", "kernel.so"], cwd=folder, check=True)
    run = ctypes.CDLL(str(folder / "kernel.so")).run

    def compute(product: NDArray[np.float32], mixture: DeviceMixture) -> NDArray[np.float32]:
        likelihoods = np.full(len(product), -1, np.float32)
        constants, offsets = mixture._constants, mixture._offsets  # noqa: SLF001 - what the kernel is given
        pointers = [
            ctypes.c_void_p(array.ctypes.data)
            for array in (np.ascontiguousarray(product), offsets, constants, likelihoods)
        ]
        run(*pointers, len(product), len(constants), offsets.size // len(constants), THREADS)
        return likelihoods

    return compute


@pytest.mark.parametrize(("components", "size"), [(1, 5), (3, 70), (12, 33), (8, 768)])
def test_the_kernel_s_arithmetic_is_right(epilogue: Epilogue, components: int, size: int) -> None:
    """From the product on, the kernel gives the double-precision likelihood; NaN and infinity give NaN."""
    mixture = make_mixture(components, size)
    stacked, features = stack_mixture(mixture), draw_features(make_mixture(components, size), 6)
    features[4, 0], features[5, 1] = np.nan, np.inf
    laid_out = DeviceMixture(stacked, np)
    with np.errstate(invalid="ignore"):
        found = epilogue(laid_out._project(features - laid_out._centre), laid_out)  # noqa: SLF001 - the step before
        expected = log_likelihood(features.astype(np.float64), stacked)
    assert np.isnan(found).tolist() == [False] * 4 + [True] * 2
    np.testing.assert_allclose(found[:4], expected[:4], rtol=1e-6, atol=NATS)
