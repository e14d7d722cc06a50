"""Reads the Dockerfiles: what each stage copies from the checkout, sets, and starts."""

import json
import shlex
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"


@dataclass
class Stage:
    """One stage; `copied` are the paths that it copies from the checkout."""

    base: str
    copied: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def read_stages(name: str) -> dict[str, Stage]:
    """Return the stages of `deploy/docker/NAME.Dockerfile` by name."""
    text = (DOCKER / f"{name}.Dockerfile").read_bytes()
    stages: dict[str, Stage] = {}
    stage = Stage("")
    for step in DockerfileParser(fileobj=BytesIO(text)).structure:
        kind, value = step["instruction"], step["value"]
        words = value.split()
        if kind == "FROM":
            stage = stages.setdefault(words[-1], Stage(words[0]))
        elif kind == "COPY" and not words[0].startswith("--from"):
            stage.copied += words[:-1]
        elif kind == "ENV":
            stage.environment |= dict(word.split("=", 1) for word in shlex.split(value))
        elif kind == "RUN":
            stage.runs.append(value)
        elif kind == "USER":
            stage.user = value
        elif kind == "ENTRYPOINT":
            stage.entrypoint = json.loads(value)
        elif kind == "CMD":
            stage.command = json.loads(value)
    return stages
