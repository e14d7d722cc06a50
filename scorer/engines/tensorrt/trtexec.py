"""TensorRT's command-line builder, for machines that serve without the Python package of TensorRT."""

import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from scorer.bundle.bundle import PLAN_FILE
from scorer.bundle.manifest import BatchProfile, Manifest
from scorer.errors import BundleMismatch

_VERSION = re.compile(r"\[TensorRT v(\d+)\]")
_SHOWN_LINES = 3


def describe_command(onnx: str, input_tensor: str, side: int, batches: BatchProfile) -> str:
    """Return the command that builds the plan of a bundle in its folder; crops have `side` x `side` pixels."""
    return shlex.join(["trtexec", *list_options(onnx, PLAN_FILE, input_tensor, side, batches)])


def list_options(onnx: str, plan: str, input_tensor: str, side: int, batches: BatchProfile) -> list[str]:
    """Return trtexec's options for `onnx` to `plan`: strongly typed, without TF32, without a test run."""
    counts = {"min": batches.min, "opt": batches.opt, "max": batches.max}
    shapes = [f"--{name}Shapes={input_tensor}:{count}x{side}x{side}x3" for name, count in counts.items()]
    return [f"--onnx={onnx}", f"--saveEngine={plan}", "--stronglyTyped", "--noTF32", *shapes, "--skipInference"]


def run_trtexec(program: str, manifest: Manifest, batches: BatchProfile, onnx: Path) -> tuple[bytes, str]:
    """Return the plan of the graph at `onnx` and TensorRT's version in digits, as trtexec prints it.

    The options are built here, never taken from the manifest: some options of trtexec load code.

    Raises:
        BundleMismatch: trtexec fails; the message contains its first errors.
    """
    with tempfile.TemporaryDirectory() as scratch:
        plan = Path(scratch) / "model.plan"
        options = list_options(str(onnx), str(plan), manifest.input_tensor, manifest.preprocess.size, batches)
        done = subprocess.run([program, *options], capture_output=True, text=True, check=False)  # noqa: S603 - see above
        if done.returncode or not plan.is_file():
            errors = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
            why = " / ".join(errors[:_SHOWN_LINES]) or f"exit code {done.returncode}"
            message = f"trtexec cannot build a plan of {onnx}: {why}"
            raise BundleMismatch(message)
        version = _VERSION.search(done.stdout)
        return plan.read_bytes(), version[1] if version else "unknown"
