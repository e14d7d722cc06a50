"""A GPU's errors are classified, as each library raises them; the process exits if the GPU is lost."""

import subprocess
import sys
from pathlib import Path

import cupy
import pytest
from cupy.cuda import cufft
from cupy_backends.cuda.libs import cublas

from scorer.commands.main import Exit
from scorer.engines.cuda.faults import GPU_LOST, exit_on_gpu_loss, is_gpu_lost, is_out_of_memory
from scorer.engines.onnx_runtime import onnxruntime

STICKY = (46, 100, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999)
onnx_error = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException
runtime_error = cupy.cuda.runtime.CUDARuntimeError


@pytest.mark.parametrize("code", STICKY)
def test_a_sticky_error_of_any_library_is_recognised(code: int) -> None:
    """By CuPy's number, by ONNX Runtime's sentence, and by CUDA's name as DALI and others quote it."""
    error = runtime_error(code)
    name, sentence = str(error).split(": ", 1)
    for raised in (
        error,
        onnx_error(
            f"CUDA failure {code}: {sentence} ; GPU=0 ; hostname=a ; file=b.cc ; line=1 ; expr=cudaGetLastError()"
        ),
        RuntimeError(f"[/opt/dali/stream.cc:30] CUDA runtime API error {name} ({code}):\n{sentence}"),
    ):
        assert is_gpu_lost(raised)
        assert not is_out_of_memory(raised)


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
def test_too_little_memory_is_recognised(error: BaseException) -> None:
    """In any library it is too little memory and not a lost GPU."""
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
    """A wrong argument or a bad image is raised unchanged."""
    assert not is_out_of_memory(error)
    assert not is_gpu_lost(error)
    with pytest.raises(type(error)), exit_on_gpu_loss(lambda: None):
        raise error


RAISING = """
import sys
import cupy
from scorer.engines.cuda.faults import exit_on_gpu_loss

def check_gpu():
    {check}

try:
    with exit_on_gpu_loss(check_gpu):
        {work}
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize(
    ("work", "check"),
    [
        ("raise cupy.cuda.runtime.CUDARuntimeError(700)", "pass"),
        ("raise RuntimeError('TensorRT refused a batch')", "raise cupy.cuda.runtime.CUDARuntimeError(719)"),
    ],
    ids=["stated", "checked"],
)
def test_the_process_exits_at_once_if_the_gpu_is_lost(tmp_path: Path, root: Path, work: str, check: str) -> None:
    """Stated by the error or found by a check of the GPU: exit code 71, one sentence, and no clean-up."""
    script = tmp_path / "lose.py"
    script.write_text(RAISING.format(work=work, check=check))
    run = subprocess.run(
        [sys.executable, script], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == GPU_LOST == Exit.GPU_LOST
    assert not run.stdout
    assert run.stderr.count("\n") == 1
    assert "this process lost the GPU (cudaError" in run.stderr
    assert "start it again" in run.stderr


def test_the_process_continues_if_the_gpu_answers() -> None:
    """An error that does not state its cause is raised unchanged when the check of the GPU passes."""
    checks: list[str] = []
    with pytest.raises(RuntimeError, match="refused"), exit_on_gpu_loss(lambda: checks.append("checked")):
        raise RuntimeError("TensorRT refused a batch")  # noqa: EM101, TRY003 - the engine's message
    assert checks
