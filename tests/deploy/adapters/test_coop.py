"""The plugin for Coop: its contract, by Coop's own functions, and its signals on a real service."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.scorer.api.conftest import Serve

# Loads the plugin by `require`, as Coop's server does, and prints what its signals answer.
RUN = """
import { createRequire } from "node:module";
const [folder, text] = process.argv.slice(1);
const plugin = createRequire(import.meta.url)(folder);
const { config, urls } = JSON.parse(text);
const context = { integrationId: plugin.manifest.id, getCredential: async () => config };
const found = { ids: plugin.manifest.signalTypeIds, disabled: [] };
for (const { signalTypeId, signal } of plugin.createSignals(context)) {
  found[signalTypeId] = [];
  found.disabled.push((await signal.getDisabledInfo("org")).disabled);
  for (const url of urls) {
    const input = { value: { type: "IMAGE", value: { url } }, orgId: "org", contentId: "c" };
    const answer = signal.run(input).then((found) => found.score, (error) => "Error: " + error.message);
    found[signalTypeId].push(await answer);
  }
}
console.log(JSON.stringify(found));
"""
# `COOP_TYPES` names types/integration.ts of Coop's repository, compiled; no registry that is used here has it.
CHECK = """
import { createRequire } from "node:module";
const [types, folder] = process.argv.slice(1);
const { isCoopIntegrationPlugin, assertModelCardHasRequiredSections } = await import(types);
const plugin = createRequire(import.meta.url)(folder);
if (!isCoopIntegrationPlugin(plugin)) throw new Error("no plugin");
assertModelCardHasRequiredSections(plugin.manifest.modelCard);
"""


def call_node(script: str, *arguments: str) -> str:
    """Return what a script prints."""
    command = ["node", "--input-type=module", "--eval", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(root: Path, config: dict[str, str], *urls: str) -> dict[str, Any]:
    """Return what the signals answer for images."""
    text = json.dumps({"config": config, "urls": urls})
    found: dict[str, Any] = json.loads(call_node(RUN, str(root / "deploy/adapters/coop"), text))
    return found


def test_the_plugin_fits_the_contract(root: Path) -> None:
    """Coop's own functions accept the plugin and its model card."""
    if not (types := os.environ.get("COOP_TYPES")):
        pytest.skip("COOP_TYPES is not set")
    call_node(CHECK, types, str(root / "deploy/adapters/coop"))


@pytest.fixture(name="pictures")
def fixture_pictures(tmp_path: Path, portrait: bytes) -> list[str]:
    """The addresses of a portrait, of a file that is no image, and of one that may not be read."""
    (tmp_path / "portrait.png").write_bytes(portrait)
    (tmp_path / "text.png").write_bytes(b"no image")
    return [(tmp_path / name).as_uri() for name in ("portrait.png", "text.png")] + ["file:///etc/passwd"]


def test_the_signals_answer(serve: Serve, root: Path, tmp_path: Path, pictures: list[str]) -> None:
    """Decision and score are those of the service; what has no score is an outcome, and an error of the score."""
    with serve(others={"payloads": {"schemes": ["file"], "file_roots": [tmp_path]}}) as client:
        found = run(root, {"url": client.url}, *pictures)
        request = {"request_id": "c", "content_id": "c", "image": {"uri": pictures[0]}}
        result = client.post_json(request).json()
    assert found["disabled"] == [False, False]
    assert found["ids"] == [name for name in found if name.startswith("UNLENSED_")]
    assert found["UNLENSED_DECISION"][:2] == [result["decision"], "not_scored"]
    assert found["UNLENSED_SCORE"][:2] == [result["score"], "Error: unlensed gives no score: not_scored"]
    assert "may not read the image" in found["UNLENSED_DECISION"][2]


def test_a_refusal_is_an_error(serve: Serve, root: Path, token_file: Path, pictures: list[str]) -> None:
    """Without a token, and without an address, no signal answers."""
    with serve(token_file=token_file) as client:
        found = run(root, {"url": client.url}, pictures[0])
    assert "send a valid token" in found["UNLENSED_DECISION"][0]
    assert run(root, {})["disabled"] == [True, True]
