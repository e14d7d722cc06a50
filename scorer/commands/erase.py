"""`unlensed erase`: remove images from a finished scan."""

from pathlib import Path
from typing import Annotated

import typer

from scorer.commands.terminal import Terminal
from scorer.errors import Exit
from scorer.observe.printable import count_noun, printable
from scorer.settings import load_settings


def erase(
    folder: Annotated[Path, typer.Argument(help="A run's folder: --out of `unlensed scan`.")],
    *,
    content_id: Annotated[
        list[str], typer.Option(help="An image: its content_id in results/ or errors/; repeat it for several.")
    ],
) -> None:
    """Erase images from a finished run: rows, features and faces in the report; the same command does the rest."""
    from scorer.archive.erase import erase_images  # noqa: PLC0415 - Arrow loads only when it is needed
    from scorer.archive.report.reading import ArchiveReader  # noqa: PLC0415
    from scorer.archive.report.run_page import write_report  # noqa: PLC0415

    settings = load_settings()
    erased = erase_images(folder, content_id, lambda run: write_report(run, ArchiveReader(run, settings)))
    terminal = Terminal(stderr=True)
    terminal.say(f"Erased {count_noun(len(erased.found), 'image')} with {count_noun(erased.rows, 'row')}; {folder}")
    unknown = [each for each in dict.fromkeys(content_id) if each not in erased.found]
    for each in unknown:
        terminal.say(f"No row has the content_id {printable(each)}: it was erased before, or it is written otherwise")
    raise typer.Exit(Exit.FAILURES if unknown else Exit.DONE)
