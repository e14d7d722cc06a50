"""ONNX Runtime reports its use to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNING = """
import onnx
from onnx import TensorProto, helper
from scorer.engines.onnx_runtime import onnxruntime

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
print(session.get_providers())
"""
IMPORTING = "import os; import {module}; print(os.environ['ORT_DISABLE_TELEMETRY'])"


def run(script: str, root: Path, home: Path) -> str:
    """Run `script` as a user at home in `home`, and not as a build job, which ONNX Runtime never reports."""
    left_out = {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": str(home), "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_session_leaves_no_trace_of_the_user(root: Path, tmp_path: Path) -> None:
    """Its telemetry begins with an id in the home; after a session the home is empty."""
    assert "CPUExecutionProvider" in run(RUNNING, root, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["onnx_features", "onnx_fp8", "onnx_precisions"])
def test_training_turns_it_off_first(root: Path, tmp_path: Path, module: str) -> None:
    """Whichever of its modules is imported first, the variable is set before ONNX Runtime is loaded."""
    assert run(IMPORTING.format(module=f"training.export.{module}"), root, tmp_path) == "1\n"
