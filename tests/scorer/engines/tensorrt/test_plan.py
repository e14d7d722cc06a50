"""A plan scores only with the very graph it was built from; the bundle stays the same bundle with or without it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.device import DeviceUnavailable, find_gpu
from scorer.bundle.bundle import BUILD_FILE, MANIFEST, PLAN_FILE, Bundle, read_bundle
from scorer.commands.bundle import verify
from scorer.commands.command_line import OTHERS
from scorer.engines.tensorrt.build import build_plan, find_current_plan, try_builders
from scorer.engines.tensorrt.plan import read_plan, write_plan
from scorer.errors import BundleMismatch, Exit, PlanBuilderMissing

HERE = find_gpu()[0] or "some GPU"


@pytest.fixture(name="bundle")
def fixture_bundle(gpu_folder: Path, tmp_path: Path) -> Bundle:
    """A private copy of a bundle for the GPU."""
    return read_bundle(Path(shutil.copytree(gpu_folder, tmp_path / "bundle")))


def test_a_plan_is_no_part_of_the_bundle_s_digest(bundle: Bundle) -> None:
    """Written beside the graph, the plan is found again, and the bundle's digest stays."""
    written = write_plan(bundle, b"plan", "tensorrt", "10.15", HERE)
    again = read_bundle(bundle.folder)
    assert again.model.digest == bundle.model.digest
    assert read_plan(again) == written
    assert (written.build.builder, written.build.version, written.build.gpu) == ("tensorrt", "10.15", HERE)
    assert written.build.batches.max == 32
    assert written.build.onnx_sha256 == bundle.manifest.files["face_extractor/1/model.onnx"].sha256
    assert not list(bundle.folder.rglob("*.partial"))


def edit_build(folder: Path, **fields: object) -> None:
    """Replace fields of `build.json`."""
    path = folder / BUILD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / PLAN_FILE).unlink(), "model.plan is not built yet"),
        (lambda folder: (folder / BUILD_FILE).unlink(), "model.plan is not built yet"),
        (lambda folder: (folder / BUILD_FILE).write_text("{"), "build.json does not state what"),
        (lambda folder: edit_build(folder, onnx_sha256="0" * 64), "built from another graph"),
        (lambda folder: (folder / PLAN_FILE).write_bytes(b"other"), "is not the plan that .*build.json describes"),
    ],
)
def test_a_plan_that_does_not_belong_is_refused(
    bundle: Bundle, damage: Callable[[Path], object], sentence: str
) -> None:
    """A missing, replaced or foreign plan gives one sentence that states how to build it."""
    write_plan(bundle, b"plan", "tensorrt", "10.15", HERE)
    damage(bundle.folder)
    checked = read_bundle(bundle.folder)
    with pytest.raises(BundleMismatch, match=f"{sentence}.*unlensed bundle build {bundle.folder}"):
        read_plan(checked)
    assert find_current_plan(checked) is None


def test_a_build_that_was_killed_does_not_damage_the_bundle(bundle: Bundle) -> None:
    """A partial plan is no stray file; the next build replaces it."""
    (bundle.folder / f"{PLAN_FILE}.partial").write_bytes(b"pl")
    write_plan(read_bundle(bundle.folder), b"plan", "tensorrt", "10.15", HERE)
    assert read_plan(read_bundle(bundle.folder)).path.read_bytes() == b"plan"
    assert not list(bundle.folder.rglob("*.partial"))


def test_a_cpu_bundle_has_no_plan(starter: Bundle, tmp_path: Path) -> None:
    """There is nothing to build, and an existing plan is an unlisted file."""
    for act in (read_plan, build_plan):
        with pytest.raises(BundleMismatch, match="is a bundle for openvino, which has no plan"):
            act(starter)
    copy = Path(shutil.copytree(starter.folder, tmp_path / "bundle"))
    (copy / PLAN_FILE).write_bytes(b"plan")
    with pytest.raises(BundleMismatch, match=r"model\.plan is not in the manifest"):
        read_bundle(copy)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": "openvino"}, "a bundle for openvino states a plan"),
        ({"plan": None}, "a bundle for tensorrt states no plan"),
        ({"target": "abacus"}, "target"),
    ],
)
def test_a_manifest_states_a_plan_for_a_gpu_and_none_else(
    bundle: Bundle, change: dict[str, object], sentence: str
) -> None:
    """Target and plan belong together."""
    path = bundle.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleMismatch, match=f"does not fit the manifest's schema.*{sentence}"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("batches", [{"min": 2, "opt": 1, "max": 4}, {"min": 0, "opt": 1, "max": 4}, {"max": 5000}])
def test_batches_that_no_plan_can_have_are_refused(bundle: Bundle, batches: dict[str, int]) -> None:
    """A profile is in ascending order and within what a plan may take."""
    path = bundle.folder / MANIFEST
    fields = json.loads(path.read_text())
    fields["plan"]["batches"] = batches
    path.write_text(json.dumps(fields))
    with pytest.raises(BundleMismatch, match="batches"):
        read_bundle(bundle.folder)


def test_verify_refuses_a_plan_of_another_graph(bundle: Bundle) -> None:
    """`unlensed bundle verify` ends with bad data, with or without a GPU, and names the command that cures it."""
    write_plan(bundle, b"plan", "tensorrt", "10.15", HERE)
    edit_build(bundle.folder, onnx_sha256="0" * 64)
    with pytest.raises(BundleMismatch, match=f"another graph.*unlensed bundle build {bundle.folder}"):
        verify(bundle.folder)
    assert BundleMismatch.exit_code is Exit.BAD_DATA


@pytest.mark.skipif(bool(find_gpu()[0]), reason="this machine has a GPU")
def test_verify_without_a_gpu_says_so(bundle: Bundle) -> None:
    """The golden faces of a GPU bundle need a GPU: without one, verify states what would run here."""
    with pytest.raises(DeviceUnavailable, match="built for a GPU: export one with --target openvino"):
        verify(bundle.folder)


@pytest.mark.skipif(bool(find_gpu()[0]), reason="this machine has a GPU")
def test_a_plan_is_not_built_without_a_gpu(bundle: Bundle) -> None:
    """The builder states what is missing, and leaves no file."""
    with pytest.raises(DeviceUnavailable, match="built on the GPU that serves it, and this machine has none"):
        build_plan(bundle)
    assert OTHERS[DeviceUnavailable] is PlanBuilderMissing.exit_code is Exit.BAD_CONFIGURATION
    assert not (bundle.folder / PLAN_FILE).exists()


def test_the_first_builder_that_can_be_used_builds(bundle: Bundle) -> None:
    """The reasons of those before it are told; where none can, they are the error."""

    def refuse(*_: object) -> tuple[bytes, str]:
        message = "only the graph has int8"
        raise PlanBuilderMissing(message)

    rule = bundle.manifest.plan
    assert rule
    built = try_builders(bundle, rule, {"a": refuse, "b": lambda *_: (b"plan", "11")})
    assert built == ("b", (b"plan", "11"), "not a: only the graph has int8")
    with pytest.raises(PlanBuilderMissing, match=r"nothing here builds a plan \(not a: only the graph has int8\)"):
        try_builders(bundle, rule, {"a": refuse})
