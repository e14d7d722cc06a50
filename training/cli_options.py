"""Options that several commands of `unlensed-train` share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from scorer.commands.command_line import local_path
from scorer.commands.terminal import Terminal

console = Terminal(stderr=True)
CORES = len(os.sched_getaffinity(0))
Run = Annotated[Path, typer.Argument(help="The run folder.", callback=local_path)]
Threads = Annotated[int, typer.Option(help="CPU threads.", min=1)]


def split_pairs(texts: list[str] | None) -> list[tuple[str, Path]]:
    """Return NAME and PATH of each NAME=PATH, or raise a usage error."""
    pairs = []
    for text in texts or ():
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            message = f"{text!r} is not of the form NAME=PATH"
            raise typer.BadParameter(message)
        pairs.append((name, Path(path)))
    return pairs
