"""Classifies errors of a GPU: too little memory, where a smaller batch may fit, and a GPU that is lost.

A sticky CUDA error stays with its process: each later call of CUDA fails, so that every further image would look
broken. Only a new process can continue. Each library wraps CUDA's errors in its own class: they are recognised by
number where there is one, otherwise by CUDA's name or sentence in the message.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from scorer.errors import Exit
from scorer.observe.printable import printable
from scorer.process_exit import exit_process

GPU_LOST = Exit.GPU_LOST.value  # nothing was committed: a supervisor may start the process again

# CUDA's number -> its names in the runtime and in the driver, and its sentence (CUDA 13, driver_types.h).
_LOST = {
    46: ("cudaErrorDevicesUnavailable", "CUDA_ERROR_DEVICE_UNAVAILABLE", "device(s) is/are busy or unavailable"),
    100: ("cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    214: ("cudaErrorECCUncorrectable", "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"),
    220: ("cudaErrorNvlinkUncorrectable", "CUDA_ERROR_NVLINK_UNCORRECTABLE", "uncorrectable NVLink error detected"),
    226: ("cudaErrorContained", "CUDA_ERROR_CONTAINED", "Invalid access of peer GPU memory over nvlink or a hardware"),
    700: ("cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    702: ("cudaErrorLaunchTimeout", "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"),
    709: ("cudaErrorContextIsDestroyed", "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"),
    710: ("cudaErrorAssert", "CUDA_ERROR_ASSERT", "device-side assert triggered"),
    714: ("cudaErrorHardwareStackError", "CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error"),
    715: ("cudaErrorIllegalInstruction", "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"),
    716: ("cudaErrorMisalignedAddress", "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"),
    717: (
        "cudaErrorInvalidAddressSpace",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "operation not supported on global/shared",
    ),
    718: ("cudaErrorInvalidPc", "CUDA_ERROR_INVALID_PC", "invalid program counter"),
    719: ("cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    721: ("cudaErrorTensorMemoryLeak", "CUDA_ERROR_TENSOR_MEMORY_LEAK", "tensor memory not completely freed"),
    999: ("cudaErrorUnknown", "CUDA_ERROR_UNKNOWN", "CUDA failure 999: unknown error"),
}
# Causes that no image can have: the device is away, or its memory or links are damaged. All others may be what a kernel
# did with what it was given, and what was in hand stays suspect.
_HARDWARE = (46, 100, 214, 220, 226)
_HARDWARE_WORDS = re.compile("|".join(rf"\b{re.escape(words)}" for code in _HARDWARE for words in _LOST[code]))
_LOST_WORDS = re.compile("|".join(rf"\b{re.escape(words)}" for names in _LOST.values() for words in names))
_MEMORY_CODES = {"CUDARuntimeError": 2, "CUDADriverError": 2, "CUBLASError": 3, "CuFFTError": 2}
_MEMORY_WORDS = re.compile(
    "out of memory|cudaErrorMemoryAllocation|CUDA allocation failed|ALLOC_FAILED"
    "|Failed to allocate memory for requested buffer|Available memory of",  # ONNX Runtime's arena
    re.IGNORECASE,
)
_DRIVER_ERRORS = ("CUDARuntimeError", "CUDADriverError")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device, or the host for it, lacks memory: a smaller batch may fit.

    CuPy and DALI raise `MemoryError`, CuPy's libraries an error with a number, ONNX Runtime one of its own classes.
    """
    if isinstance(error, MemoryError):
        return True
    kind = type(error).__name__
    if kind in _MEMORY_CODES:
        return _read_code(error) == _MEMORY_CODES[kind]
    return _is_from_library(error) and bool(_MEMORY_WORDS.search(str(error)))


def is_gpu_lost(error: BaseException) -> bool:
    """Return whether this process can no longer use CUDA."""
    if type(error).__name__ in _DRIVER_ERRORS:
        return _read_code(error) in _LOST
    return _is_from_library(error) and bool(_LOST_WORDS.search(str(error)))


def is_hardware(error: BaseException) -> bool:
    """Return whether a lost GPU is certainly the hardware's doing, and not that of an image."""
    if type(error).__name__ in _DRIVER_ERRORS:
        return _read_code(error) in _HARDWARE
    return bool(_HARDWARE_WORDS.search(str(error)))


@contextmanager
def exit_on_gpu_loss(check_gpu: Callable[[], object]) -> Iterator[None]:
    """Exit the process when the block fails because the GPU is lost; raise every other error unchanged.

    Args:
        check_gpu: waits for the GPU and raises CUDA's error if it is lost. It decides where the error does not state
            the cause, such as cuBLAS's "execution failed".
    """
    try:
        yield
    except Exception as error:
        if is_gpu_lost(error):
            exit_without_gpu(error)
        if not is_out_of_memory(error):
            try:
                check_gpu()
            except RuntimeError as cause:
                if is_gpu_lost(cause):
                    exit_without_gpu(cause)
        raise


def exit_without_gpu(error: BaseException) -> NoReturn:
    """Exit with code 71 and without cleaning up, which would call CUDA again."""
    why = printable(" ".join(str(error).split()))
    sys.stderr.write(
        f"unlensed: this process lost the GPU ({why}) and exits with code {GPU_LOST}; no work in flight was "
        "committed: start it again, and check the GPU if this repeats\n"
    )
    sys.stderr.flush()
    exit_process(Exit.GPU_LOST, foreseen=is_hardware(error))


def _is_from_library(error: BaseException) -> bool:
    """Return whether the message may be CUDA's; ONNX Runtime's classes are no `RuntimeError`."""
    return isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime.")


def _read_code(error: BaseException) -> int | None:
    code = getattr(error, "status", None)
    return code if isinstance(code, int) else getattr(error, "result", None)
