"""The mixture's log-likelihood on the device of the features: one matrix product, and one kernel for the rest.

Single precision without TF32: with inputs rounded to 10 bits likelihoods are wrong by 0.1 to 3 nats, in true single
precision by less than 1e-3. Shape suffixes: N faces, D features, K components.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scorer.engines.base import FeatureBatch
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.mixture import Array, StackedMixture, round_nats

WORKSPACE_BYTES = 128 << 20  # of projected faces, [N, K D]: 5,461 faces of 768 features under 8 components
THREADS = 256

# One block per face, one warp per component at a time. Neighbouring threads read `product` together, and once.
KERNEL_NAME = "finish_likelihood"
KERNEL = r"""
extern "C" __global__ void finish_likelihood(
    const float* product, const float* offsets, const float* constants, float* likelihoods, int components, int size)
{
    extern __shared__ float joint[];
    const int lane = threadIdx.x % 32;
    for (int k = threadIdx.x / 32; k < components; k += blockDim.x / 32) {
        const float* projected = product + ((long long)blockIdx.x * components + k) * size;
        const float* offset = offsets + (long long)k * size;
        float sum = 0.0f;
        for (int d = lane; d < size; d += 32) {
            const float residual = projected[d] - offset[d];
            sum += residual * residual;
        }
        for (int step = 16; step > 0; step /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        }
        if (lane == 0) {
            joint[k] = constants[k] - 0.5f * sum;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        // A NaN is in every component: fmaxf ignores it, the sum keeps it.
        float peak = joint[0];
        for (int k = 1; k < components; ++k) {
            peak = fmaxf(peak, joint[k]);
        }
        float total = 0.0f;
        for (int k = 0; k < components; ++k) {
            total += expf(joint[k] - peak);
        }
        likelihoods[blockIdx.x] = peak + logf(total);
    }
}
"""


class DeviceMixture:
    """A mixture in the layout of one device.

    Args:
        mixture: of a bundle's model.
        xp: CuPy, or NumPy for the same steps on a CPU.

    Attributes:
        source: the mixture that it was made from.
    """

    def __init__(self, mixture: StackedMixture, xp: Any) -> None:  # noqa: ANN401 - CuPy has no types
        self.source, self._xp = mixture, xp
        self._diagonal = mixture.offsets[0].ndim == 2  # noqa: PLR2004 - diagonal covariances
        factors, offsets = _join_panels(mixture)
        self._size, self._components = len(mixture.centre), len(mixture.constants)
        self._centre, self._constants, self._factors, self._offsets = (
            xp.ascontiguousarray(xp.asarray(array, dtype=np.float32))
            for array in (mixture.centre, mixture.constants, factors, offsets)
        )
        self._rows = max(1, WORKSPACE_BYTES // (4 * self._components * self._size))
        # Compiled on its first use, for the GPU of this machine.
        self._kernel = None if xp is np else xp.RawKernel(KERNEL, KERNEL_NAME)

    def log_likelihood(self, features_ND: Array) -> Array:
        """Return [N] float32 in nats, on the device; NaN for a row with a value that is not finite."""
        likelihoods = self._xp.empty(len(features_ND), np.float32)
        for start in range(0, len(features_ND), self._rows):
            rows = slice(start, start + self._rows)
            self._finish(self._project(features_ND[rows] - self._centre), likelihoods[rows])
        return likelihoods

    def _project(self, centred_ND: Array) -> Array:
        """Return [N, K D]: each face times each component's factor."""
        if self._diagonal:
            return (centred_ND[:, None, :] * self._factors).reshape(len(centred_ND), -1)
        if self._xp is np:
            return centred_ND @ self._factors
        return multiply_fp32(self._xp, centred_ND, self._factors)

    def _finish(self, product: Array, likelihoods: Array) -> None:
        if self._kernel is not None:
            arguments = (product, self._offsets, self._constants, likelihoods)
            sizes = (np.int32(self._components), np.int32(self._size))
            self._kernel((len(product),), (THREADS,), (*arguments, *sizes), shared_mem=4 * self._components)
            return
        residual = (product - self._offsets).reshape(len(product), self._components, self._size)
        joint = self._constants - np.einsum("nkd,nkd->nk", residual, residual) / 2
        peak = joint.max(axis=1)
        likelihoods[:] = peak + np.log(np.exp(joint - peak[:, None]).sum(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFeatureBatch(FeatureBatch):
    """A batch whose features, of `stream.xp`, stay on the device.

    Attributes:
        device_mixture: computes their likelihoods there.
        stream: of their device.
    """

    device_mixture: DeviceMixture
    stream: DeviceStream

    def log_likelihood(self, mixture: StackedMixture) -> NDArray[np.float64]:
        """See `FeatureBatch`; in single precision, 1e-3 nats from the CPU's.

        Raises:
            ValueError: `mixture` is not the one that the embedder was opened with.
        """
        if mixture is not self.device_mixture.source:
            message = "these features are scored with the mixture of the model that their embedder was opened with"
            raise ValueError(message)
        with self.stream.activate():
            likelihoods = self.stream.copy_to_host(self.device_mixture.log_likelihood(self.features))
        return np.asarray(round_nats(likelihoods.astype(np.float64)))

    def on_host(self) -> FeatureBatch:
        """See `FeatureBatch`."""
        with self.stream.activate():
            return FeatureBatch(self.stream.copy_to_host(self.features), self.failures, self.high_band)


def multiply_fp32(cupy: Any, left: Array, right: Array) -> Array:  # noqa: ANN401 - CuPy has no types
    """Return `left` @ `right`, both float32 in C order, in true single precision whatever `CUPY_TF32` is.

    cuBLAS stores matrices by columns: it is asked for the product of the transposed matrices.
    """
    (rows, depth), columns = left.shape, right.shape[1]
    product = cupy.empty((rows, columns), np.float32)
    handle = cupy.cuda.device.get_cublas_handle()
    cublas = cupy.cuda.cublas
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    mode = cublas.getMathMode(handle)
    cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)  # each thread has its own handle
    try:
        cublas.gemmEx(
            handle,
            cublas.CUBLAS_OP_N,
            cublas.CUBLAS_OP_N,
            columns,
            rows,
            depth,
            one.ctypes.data,
            right.data.ptr,
            cupy.cuda.runtime.CUDA_R_32F,
            columns,
            left.data.ptr,
            cupy.cuda.runtime.CUDA_R_32F,
            depth,
            zero.ctypes.data,
            product.data.ptr,
            cupy.cuda.runtime.CUDA_R_32F,
            columns,
            cublas.CUBLAS_COMPUTE_32F,
            cublas.CUBLAS_GEMM_DEFAULT,
        )
    finally:
        cublas.setMathMode(handle, mode)
    return product


def _join_panels(mixture: StackedMixture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one matrix [D, K D] of all factors and the projected means [K D], from the panels that skip zeros.

    The factors of diagonal covariances stay [K, D].
    """
    components, size = len(mixture.constants), len(mixture.centre)
    if mixture.offsets[0].ndim == 2:  # noqa: PLR2004 - diagonal covariances
        return mixture.panels[0], mixture.offsets[0].reshape(-1)
    factors = np.zeros((size, components, size))
    offsets = np.zeros((components, size))
    start = 0
    for panel, offset in zip(mixture.panels, mixture.offsets, strict=True):
        width = panel.shape[1] // components
        factors[: len(panel), :, start : start + width] = panel.reshape(len(panel), components, width)
        offsets[:, start : start + width] = offset.reshape(components, width)
        start += width
    return factors.reshape(size, -1), offsets.reshape(-1)
