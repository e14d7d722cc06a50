"""Torch-TensorRT builds the networks without a GPU, with TensorRT-RTX, in its own process: this file as a script."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.tensorrt.compile import build_network
from scorer.errors import PlanBuilderMissing
from tests.deploy.tools import find_tool
from tests.scorer.engines.gpu_bundle import write_gpu_bundle
from tests.small_extractor import make_small_extractor
from tests.torch_tensorrt_on_cpu import import_torch_tensorrt
from training.export.torch_tensorrt_plan import build_from_network, define_network
from training.pretext.network import build_network as build_pretext
from training.recipes import paper, starter

pytestmark = pytest.mark.slow
NETWORKS = {"small fp32": None, "small fp16": None, "EfficientNet-Lite0 fp16": starter(), "ResNet-50 fp16": paper()}


@pytest.fixture(name="found", scope="module")
def fixture_found(root: Path, starter: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the process found, by network."""
    find_tool("torch-tensorrt")
    folder = tmp_path_factory.mktemp("torch_tensorrt")
    command = [sys.executable, __file__, str(write_gpu_bundle(folder / "bundle", starter)), str(folder / "found.json")]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_one_engine_with_the_tensors_and_types_of_its_bundle(found: dict[str, Any], network: str) -> None:
    """Nothing goes to PyTorch; what is built gives the network's features, in deviations, before it is compiled."""
    case, half = found[network], network.endswith("fp16")
    assert case["engines"] == [1, 0]
    assert case["engines without a mean"][1] >= 1
    assert case["CONVOLUTION"] == ["HALF" if half else "FLOAT"]
    assert case["REDUCE"] == ["FLOAT"]
    assert case.get("MATRIX_MULTIPLY", ["FLOAT"]) == ["FLOAT"]
    assert case["apart"] < (0.05 if half else 1e-4)
    assert case["plan"] > case["weights"] * (2 if half else 4)


def test_the_export_does_not_build_with_the_package_for_rtx(found: dict[str, Any]) -> None:
    """Its plans do not run in TensorRT: the builder states that instead of building one."""
    assert found["obstacle"] == "torch_tensorrt is the package for TensorRT-RTX"


def examine(network: str, bundle: Bundle, torch_tensorrt: Any, tensorrt: Any) -> dict[str, Any]:  # noqa: ANN401 - untyped
    """Define and build one network, whose tensors must be those of the manifest; return what was made."""
    recipe, rule, precision = NETWORKS[network], bundle.manifest.plan, network.rpartition(" ")[2]
    assert rule
    extractor = build_pretext(recipe).extractor.eval() if recipe else make_small_extractor()
    definition = define_network(extractor, 224, rule.batches, torch_tensorrt, precision)
    lowered, partition = definition.owner.module, torch_tensorrt.dynamo.partitioning.fast_partition  # type: ignore[attr-defined]

    def count(**settings: set[str]) -> list[int]:
        names = [name for name, _ in partition(deepcopy(lowered), min_block_size=1, **settings)[0].named_children()]
        return [sum(mark in name for name in names) for mark in ("_run_on_acc", "_run_on_gpu")]

    found: dict[str, Any] = {"engines": count()}
    found["engines without a mean"] = count(torch_executed_ops={"torch.ops.aten.mean.dim"})
    for layer in map(definition.network.get_layer, range(definition.network.num_layers)):
        found.setdefault(layer.type.name, set()).add(layer.get_output(0).dtype.name)
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8))
    with torch.inference_mode():
        expected = extractor(crops)
        found["apart"] = float((lowered(crops) - expected).abs().max() / expected.std())
    manifest = bundle.manifest.model_copy(update={"feature_size": expected.shape[1]})
    found["plan"] = len(build_network(definition, manifest, rule.batches, tensorrt))
    found["weights"] = sum(weights.numel() for weights in extractor.parameters())
    return found


def main(folder: Path, out: Path) -> None:
    """Examine each network, and call the builder as the export does."""
    bundle, packages = read_bundle(folder), import_torch_tensorrt()
    found: dict[str, Any] = {network: examine(network, bundle, *packages) for network in NETWORKS}
    with pytest.raises(PlanBuilderMissing) as obstacle:
        build_from_network(nn.Module, bundle, bundle.manifest.plan)  # type: ignore[arg-type]  # it is a GPU bundle
    out.write_text(json.dumps(found | {"obstacle": str(obstacle.value)}, default=sorted))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
