"""A GPU's errors told apart, by the libraries' own exceptions; and a lost GPU that ends its process."""

import subprocess
import sys
from pathlib import Path

import cupy
import pytest
from cupy.cuda import cufft
from cupy_backends.cuda.libs import cublas

from scorer.commands.main import Exit
from scorer.engines.cuda.faults import GPU_LOST, guarding_gpu, is_gpu_lost, is_out_of_memory
from scorer.engines.onnx_runtime import onnxruntime

STICKY = (46, 100, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999)
onnx_error = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException
runtime_error = cupy.cuda.runtime.CUDARuntimeError


@pytest.mark.parametrize("code", STICKY)
def test_a_sticky_error_is_known_in_every_library_s_words(code: int) -> None:
    """By CuPy's number, by ONNX Runtime's sentence, and by CUDA's name as DALI and others quote it."""
    error = runtime_error(code)
    name, sentence = str(error).split(": ", 1)
    for told in (
        error,
        onnx_error(
            f"CUDA failure {code}: {sentence} ; GPU=0 ; hostname=a ; file=b.cc ; line=1 ; expr=cudaGetLastError()"
        ),
        RuntimeError(f"[/opt/dali/stream.cc:30] CUDA runtime API error {name} ({code}):\n{sentence}"),
    ):
        assert is_gpu_lost(told)
        assert not is_out_of_memory(told)


@pytest.mark.parametrize(
    "error",
    [
        runtime_error(2),
        cupy.cuda.memory.OutOfMemoryError(1, 2, 3),
        onnx_error("Failed to allocate memory for requested buffer of size 1024"),
        onnx_error("Available memory of 512 is smaller than requested bytes of 1024"),
        onnx_error(
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; file=b.cc ; line=1 ; expr=cudaMalloc(&p, size)"
        ),
        cublas.CUBLASError(3),
        cufft.CuFFTError(2),
        MemoryError("CUDA allocation failed"),
        RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_want_of_memory_is_known(error: BaseException) -> None:
    """Whoever lacks the memory, it is that and no lost GPU."""
    assert is_out_of_memory(error)
    assert not is_gpu_lost(error)


@pytest.mark.parametrize(
    "error",
    [
        runtime_error(1),
        runtime_error(98),
        cublas.CUBLASError(7),
        RuntimeError("Failed to decode sample #0"),
        ValueError("an illegal memory access was encountered"),
    ],
    ids=str,
)
def test_other_errors_are_neither(error: BaseException) -> None:
    """A wrong argument or a bad image passes as what it is."""
    assert not is_out_of_memory(error)
    assert not is_gpu_lost(error)
    with pytest.raises(type(error)), guarding_gpu(lambda: None):
        raise error


RAISING = """
import sys
import cupy
from scorer.engines.cuda.faults import guarding_gpu

def check_gpu():
    {check}

try:
    with guarding_gpu(check_gpu):
        {work}
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize(
    ("work", "check"),
    [
        ("raise cupy.cuda.runtime.CUDARuntimeError(700)", "pass"),
        ("raise RuntimeError('TensorRT did not take a batch')", "raise cupy.cuda.runtime.CUDARuntimeError(719)"),
    ],
    ids=["told", "found"],
)
def test_a_lost_gpu_ends_the_process_at_once(tmp_path: Path, root: Path, work: str, check: str) -> None:
    """Told by the error or found by asking the GPU: exit code 71, one sentence, and nothing more is done."""
    script = tmp_path / "lose.py"
    script.write_text(RAISING.format(work=work, check=check))
    run = subprocess.run(
        [sys.executable, script], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == GPU_LOST == Exit.GPU_LOST
    assert not run.stdout
    assert run.stderr.count("\n") == 1
    assert "the GPU is lost to this process (cudaError" in run.stderr
    assert "start it again" in run.stderr


def test_a_healthy_gpu_is_not_ended() -> None:
    """An error that says nothing of the cause passes when the GPU answers."""
    asked: list[str] = []
    with pytest.raises(RuntimeError, match="did not take"), guarding_gpu(lambda: asked.append("asked")):
        raise RuntimeError("TensorRT did not take a batch")  # noqa: EM101, TRY003 - what the engine says
    assert asked
