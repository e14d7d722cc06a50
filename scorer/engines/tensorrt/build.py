"""Build the plan of a GPU bundle on the machine that serves: the one way to a plan, with whichever builder is there.

A plan works only with the TensorRT version that built it and on the same model of GPU. `unlensed bundle build` runs
this once per machine; a plan that is still valid is kept. `unlensed-train export` runs it with one more builder.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ingest.device import DeviceUnavailable, find_gpu
from scorer.bundle.bundle import Bundle
from scorer.bundle.manifest import PlanRule
from scorer.engines.tensorrt.compile import compile_network
from scorer.engines.tensorrt.packages import find_package
from scorer.engines.tensorrt.plan import EnginePlan, read_plan, write_plan
from scorer.engines.tensorrt.trtexec import run_trtexec
from scorer.errors import BundleMismatch, PlanBuilderMissing

_TRTEXEC_FOLDER = "/usr/src/tensorrt/bin"  # where NVIDIA's containers have it
# Returns a plan and the version of TensorRT that built it; raises PlanBuilderMissing where it cannot be used.
PlanBuilder = Callable[[Bundle, PlanRule], tuple[bytes, str]]


def build_plan(bundle: Bundle, builders: Mapping[str, PlanBuilder] | None = None) -> tuple[EnginePlan, str]:
    """Build the plan of `bundle` on this machine's GPU with the first of `builders` or `BUILDERS`, and write it.

    Return the plan, and why the builders before its own cannot be used.

    Raises:
        DeviceUnavailable: there is no GPU.
        PlanBuilderMissing: no builder can be used; the message states why for each.
        BundleMismatch: the bundle is for another target, or TensorRT refuses its network; the message states why.
        OSError: the folder cannot be written.
    """
    manifest = bundle.manifest
    if manifest.plan is None:
        message = f"{bundle.folder} is a bundle for {manifest.target}, which has no plan to build"
        raise BundleMismatch(message)
    gpu, obstacle = find_gpu()
    if obstacle:
        message = f"a plan is built on the GPU that serves it, and this machine has none ({obstacle}): run this there"
        raise DeviceUnavailable(message)
    name, (plan, version), why = try_builders(bundle, manifest.plan, BUILDERS if builders is None else builders)
    return write_plan(bundle, plan, name, version, gpu), why


def try_builders(
    bundle: Bundle, rule: PlanRule, builders: Mapping[str, PlanBuilder]
) -> tuple[str, tuple[bytes, str], str]:
    """Return the name of the first builder that can be used, what it built, and why those before it cannot be used.

    Raises:
        PlanBuilderMissing, BundleMismatch: see `build_plan`.
    """
    obstacles: list[str] = []
    for name, build in builders.items():
        try:
            return name, build(bundle, rule), "; ".join(obstacles)
        except PlanBuilderMissing as obstacle:
            obstacles.append(f"not {name}: {obstacle}")
    message = f"nothing here builds a plan ({'; '.join(obstacles)}): build it in the container that serves"
    raise PlanBuilderMissing(message)


def find_current_plan(bundle: Bundle) -> EnginePlan | None:
    """Return the plan of the bundle if it matches the graph, this GPU and, where known, this TensorRT version."""
    try:
        plan = read_plan(bundle)
    except BundleMismatch:
        return None
    tensorrt, _ = find_package("tensorrt")
    if tensorrt and plan.build.builder != "trtexec" and plan.build.version != tensorrt.__version__:
        return None
    return plan


def build_with_package(bundle: Bundle, rule: PlanRule) -> tuple[bytes, str]:
    """Build with TensorRT's Python package; see `PlanBuilder`."""
    tensorrt, obstacle = find_package("tensorrt")
    if tensorrt is None:
        raise PlanBuilderMissing(obstacle)
    plan = compile_network(bundle.extractor, bundle.manifest, rule.batches, tensorrt, bundle.read)
    return plan, tensorrt.__version__


def build_with_trtexec(bundle: Bundle, rule: PlanRule) -> tuple[bytes, str]:
    """Build with TensorRT's program; see `PlanBuilder`."""
    program = shutil.which("trtexec", path=os.pathsep.join([os.environ.get("PATH", ""), _TRTEXEC_FOLDER]))
    if program is None:
        message = "trtexec is not installed"
        raise PlanBuilderMissing(message)
    with bundle.copy(bundle.extractor) as folder:
        return run_trtexec(program, bundle.manifest, rule.batches, Path(folder) / bundle.manifest.extractor)


BUILDERS: dict[str, PlanBuilder] = {"tensorrt": build_with_package, "trtexec": build_with_trtexec}
