"""The functions for Osprey's rules, in Osprey's own plugin manager, validators and executor, on a real service."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scorer.api.conftest import Serve

# Validates and executes the rules as Osprey's worker does, and prints features and errors of each image.
RUN = """
from gevent import monkey
monkey.patch_all()
import json, sys
from datetime import datetime
from gevent.pool import Pool
folder, rules, images = sys.argv[1:]
sys.path.insert(0, folder)
import unlensed_udfs
from osprey.engine.ast.sources import Sources
from osprey.engine.ast_validator import ValidatorRegistry, validate_sources
from osprey.engine.ast_validator.validation_context import ValidationFailed
from osprey.engine.executor.execution_context import Action
from osprey.engine.executor.execution_graph import compile_execution_graph
from osprey.engine.executor.executor import execute
from osprey.engine.executor.udf_execution_helpers import UDFHelpers
from osprey.engine.stdlib import get_config_registry
from osprey.engine.udf.registry import UDFRegistry
from osprey.worker import _stdlibplugin
from osprey.worker.adaptor.plugin_manager import plugin_manager
for plugin in (_stdlibplugin, unlensed_udfs):
    if not plugin_manager.is_registered(plugin):
        plugin_manager.register(plugin)
plugin_manager.check_pending()
udfs = UDFRegistry.with_udfs(*sum(plugin_manager.hook.register_udfs(), []))
checks = sum(plugin_manager.hook.register_ast_validators(), [get_config_registry().get_validator()])
checks = ValidatorRegistry.from_validator_classes(set(checks))
try:
    graph = compile_execution_graph(validate_sources(Sources.from_dict({"main.sml": rules}), udfs, checks))
except ValidationFailed as error:
    sys.exit(error.rendered())
found = []
for id, image in enumerate(json.loads(images)):
    action = Action(action_id=id, data={"photo_url": image}, action_name="upload", timestamp=datetime(2026, 1, 1))
    result = execute(graph, UDFHelpers(), action, Pool(2))
    found.append((result.extracted_features, [repr(info.error) for info in result.error_infos]))
print(json.dumps(found))
"""

Run = Callable[..., list[Any]]


@pytest.fixture(name="run")
def fixture_run(root: Path) -> Run:
    """Run the README's rules on images. `OSPREY_PYTHON` names a Python with osprey_worker: no registry here has it."""
    if not (python := os.environ.get("OSPREY_PYTHON")):
        pytest.skip("OSPREY_PYTHON is not set")

    def run(url: str, *images: str, token: str = "", replaced: tuple[str, str] = ("", "")) -> list[Any]:
        folder = root / "deploy/adapters/osprey"
        rules = (folder / "README.md").read_text().split("```")[1].replace(*replaced)
        command = [python, "-c", RUN, str(folder), rules, json.dumps(images)]
        environment = {"UNLENSED_URL": url, "UNLENSED_TOKEN": token, "DD_TRACE_ENABLED": "false"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


@pytest.fixture(name="pictures")
def fixture_pictures(tmp_path: Path, portrait: bytes) -> list[str]:
    """The addresses of a portrait, of a file that is no image, and of one that may not be read."""
    (tmp_path / "portrait.png").write_bytes(portrait)
    (tmp_path / "text.png").write_bytes(b"no image")
    return [(tmp_path / name).as_uri() for name in ("portrait.png", "text.png")] + ["file:///etc/passwd"]


def test_rules_read_decision_and_values(run: Run, serve: Serve, tmp_path: Path, pictures: list[str]) -> None:
    """They are those of the service; an image that cannot be scored has no values and goes to a person."""
    with serve(others={"payloads": {"schemes": ["file"], "file_roots": [tmp_path]}}) as client:
        portrait, text, forbidden = run(client.url, *pictures)
        request = {"request_id": "c", "content_id": "c", "image": {"uri": pictures[0]}}
        result = client.post_json(request).json()
    features, errors = portrait
    assert errors == []
    assert (features["Face"], features["FaceScore"]) == (result["decision"], result["score"])
    assert features["FaceP"] == min(face["p_value"] for face in result["faces"])
    assert features["UnlikePhotographs"] == (result["decision"] == "flag")
    assert features["HighScore"] == (result["score"] > 0.99)
    features, errors = text
    assert (features["Face"], features["FaceP"], features["FaceScore"]) == ("not_scored", None, None)
    assert [features[name] for name in ("UnlikePhotographs", "APersonLooks", "HighScore")] == [False, True, True]
    assert errors == []
    assert "may not read the image" in "".join(forbidden[1])
    assert forbidden[0].get("Face") is None


def test_a_refusal_is_an_error(run: Run, serve: Serve, token_file: Path, pictures: list[str]) -> None:
    """Without a token, and without a service, no rule has a decision."""
    with serve(token_file=token_file) as guarded:
        ((features, errors),) = run(guarded.url, pictures[0])
        ((_, known),) = run(guarded.url, pictures[0], token="a" * 32)
    assert "send a valid token" in "".join(errors)
    assert features.get("Face") is None
    assert "send a valid token" not in "".join(known)
    ((features, errors),) = run("http://127.0.0.1:1", pictures[0])
    assert "does not answer" in "".join(errors)
    assert features.get("Face") is None


def test_a_rule_must_say_what_no_score_means(run: Run) -> None:
    """Osprey's validator refuses a comparison of a score that may be missing."""
    replaced = ("ResolveOptional(optional_value=FaceScore, default_value=1.0)", "FaceScore")
    with pytest.raises(AssertionError, match=r"no implementation for `float \| None > float`"):
        run("http://127.0.0.1:1", replaced=replaced)
