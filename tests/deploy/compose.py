"""The model of deploy/compose, rendered by Docker Compose."""

import json
import os
import subprocess
from typing import Any

from tests.deploy.images import ROOT
from tests.deploy.tools import find_tool

FOLDER = ROOT / "deploy" / "compose"


def read_compose(**variables: str) -> dict[str, Any]:
    """Return the model with every variable replaced, also by `variables`."""
    done = subprocess.run(
        [find_tool("docker-compose"), "--project-directory", FOLDER, "config", "--format", "json"],
        env={"PATH": os.defpath, "HOME": "/nowhere"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))  # `config` escapes the dollars that remain
    return model
