"""The plan of a GPU bundle: built after the bundle, on the machine that serves, from the graph of the bundle.

The digest of a bundle, and with it the id of every result, does not cover the plan. The plans of two machines may
differ, but their results must not: the golden faces check that on each machine.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from ingest.device import find_gpu
from scorer.bundle.bundle import BUILD_FILE, MAX_PLAN_BYTES, PLAN_FILE, Bundle, read_unlisted_file
from scorer.bundle.manifest import BatchProfile, Digest, ManifestSection
from scorer.errors import BundleMismatch
from scorer.files import replace_file
from scorer.messages import describe_problems

_MAX_BUILD_BYTES = 2**16


class PlanBuild(ManifestSection):
    """`build.json`: the graph, the builder and the GPU of a plan."""

    builder: str
    version: str
    gpu: str
    batches: BatchProfile
    onnx_sha256: Digest
    plan_sha256: Digest


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """A plan that was built from the graph of its bundle."""

    path: Path
    build: PlanBuild
    data: bytes = field(repr=False)


def read_plan(bundle: Bundle) -> EnginePlan:
    """Return the plan of the bundle after checking it against `build.json`, and `build.json` against the graph.

    Raises:
        BundleMismatch: there is no plan, or it is of another graph or GPU; the message states how to build one.
    """
    folder, manifest = bundle.folder, bundle.manifest
    path, remedy = folder / PLAN_FILE, f"build it where it serves with `unlensed bundle build {folder}`"
    if manifest.target != "tensorrt":
        message = f"{folder} is a bundle for {manifest.target}, which has no plan: export one with --target tensorrt"
        raise BundleMismatch(message)
    if not path.is_file() or not (folder / BUILD_FILE).is_file():
        message = f"{path} is not built yet: {remedy}"
        raise BundleMismatch(message)
    try:
        build = PlanBuild.model_validate_json(read_unlisted_file(folder, BUILD_FILE, _MAX_BUILD_BYTES))
        data = read_unlisted_file(folder, PLAN_FILE, MAX_PLAN_BYTES)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): {remedy}"
        raise BundleMismatch(message) from error
    except ValidationError as error:
        message = (
            f"{folder / BUILD_FILE} does not state what the plan was built from ({describe_problems(error)}): {remedy}"
        )
        raise BundleMismatch(message) from error
    if build.onnx_sha256 != manifest.files[manifest.extractor].sha256:
        message = f"{path} was built from another graph than this bundle's: {remedy}"
        raise BundleMismatch(message)
    if build.plan_sha256 != hashlib.sha256(data).hexdigest():
        message = f"{path} is not the plan that {BUILD_FILE} describes: {remedy}"
        raise BundleMismatch(message)
    here, obstacle = find_gpu()
    if not obstacle and here != build.gpu:
        message = f"{path} was built on {build.gpu}, and this is {here}: {remedy}"
        raise BundleMismatch(message)
    return EnginePlan(path, build, data)


def write_plan(bundle: Bundle, plan: bytes, builder: str, version: str, gpu: str) -> EnginePlan:
    """Write `plan` and its `build.json` into the folder of the bundle, each atomically.

    After a crash between the two, `read_plan` refuses the new plan with the old `build.json`.

    Raises:
        OSError: the folder cannot be written, or the disk is full; no partial file is left.
    """
    rule = bundle.manifest.plan
    if rule is None:
        message = f"{bundle.folder} is a bundle for {bundle.manifest.target}, which has no plan"
        raise BundleMismatch(message)
    build = PlanBuild(
        builder=builder,
        version=version,
        gpu=gpu,
        batches=rule.batches,
        onnx_sha256=bundle.manifest.files[bundle.manifest.extractor].sha256,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
    )
    replace_file(bundle.folder / PLAN_FILE, plan)
    replace_file(bundle.folder / BUILD_FILE, build.model_dump_json(indent=1).encode() + b"\n")
    return EnginePlan(bundle.folder / PLAN_FILE, build, plan)
