"""A GPU bundle's plan: built after the bundle, on the machine that serves, and tied to the graph it was built from.

A bundle's digest, and with it every result's id, does not cover the plan: what must not differ between two machines'
plans is what they answer, and the golden faces prove that on each.
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
    """`build.json`: what a plan was built from, by what and on which GPU."""

    builder: str
    version: str
    gpu: str
    batches: BatchProfile
    onnx_sha256: Digest
    plan_sha256: Digest


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """A plan that was built from its bundle's graph."""

    path: Path
    build: PlanBuild
    data: bytes = field(repr=False)


def read_plan(bundle: Bundle) -> EnginePlan:
    """Return the bundle's plan after checking it against `build.json`, and that against the bundle's graph.

    Raises:
        BundleMismatch: there is no plan, or not of this graph or this machine's GPU; the sentence says how to get one.
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
            f"{folder / BUILD_FILE} does not say what the plan was built from ({describe_problems(error)}): {remedy}"
        )
        raise BundleMismatch(message) from error
    if build.onnx_sha256 != manifest.files[manifest.extractor].sha256:
        message = f"{path} was built from another graph than this bundle's: {remedy}"
        raise BundleMismatch(message)
    if build.plan_sha256 != hashlib.sha256(data).hexdigest():
        message = f"{path} is not the plan that {BUILD_FILE} speaks of: {remedy}"
        raise BundleMismatch(message)
    here, obstacle = find_gpu()
    if not obstacle and here != build.gpu:
        message = f"{path} was built on {build.gpu}, and this is {here}: {remedy}"
        raise BundleMismatch(message)
    return EnginePlan(path, build, data)


def write_plan(bundle: Bundle, plan: bytes, builder: str, version: str, gpu: str) -> EnginePlan:
    """Write `plan` and what it was built from into the bundle's folder, each whole or not at all.

    Ended between the two, `read_plan` refuses the new plan with the old `build.json`.

    Raises:
        OSError: the folder may not be written, or the disk is full; no partial file is left.
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
