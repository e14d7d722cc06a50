"""`unlensed review`: people label the least typical faces of a scan."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from scorer.commands.terminal import Terminal
from scorer.settings import load_settings


def review(
    folder: Annotated[Path, typer.Argument(help="A run's folder: --out of `unlensed scan`.", metavar="RUN")],
    *,
    reviewer: Annotated[str | None, typer.Option(help="The name in the labels. [default: the user]")] = None,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many faces, the least typical first.")] = 500,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
) -> None:
    """Label the least typical faces of a run in a browser; each label is saved at once in RUN/labels.jsonl."""
    from scorer.review.server import review_run  # noqa: PLC0415 - engines are imported on demand

    terminal = Terminal()
    name = reviewer or getpass.getuser()
    count = review_run(
        folder, load_settings(), name, most, port, lambda url: terminal.say(f"Open {url} in a browser; Ctrl-C ends it")
    )
    terminal.say(f"{count} faces were shown; the labels are in {folder / 'labels.jsonl'}")
