"""`unlensed report` and `unlensed compare`: figures and pages of scans."""

from pathlib import Path
from typing import Annotated

import typer

from scorer.commands.command_line import local_path
from scorer.commands.terminal import Terminal
from scorer.observe.printable import print_json
from scorer.settings import load_settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output instead.")]


def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder: --out of `unlensed scan`.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Write summary.json and report.html of a run again, finished or not."""
    from scorer.archive.report.reading import ArchiveReader  # noqa: PLC0415 - DuckDB loads only when it is needed
    from scorer.archive.report.run_page import list_lines, write_report  # noqa: PLC0415

    summary = write_report(folder, ArchiveReader(folder, load_settings()))
    if as_json:
        print_json(summary.model_dump_json(indent=1))
        return
    terminal = Terminal()
    for line in list_lines(summary):
        terminal.print(line)
    terminal.say(f"The page is {folder / 'report.html'}")


def compare(
    run_a: Annotated[Path, typer.Argument(help="The folder of the first run.")],
    run_b: Annotated[Path, typer.Argument(help="The folder of the second run.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write the comparison as a page with pictures to this file.",
            dir_okay=False,
            callback=local_path,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs over the same images: which decisions differ, and how the p-values change."""
    from scorer.archive.report.compare import compare_runs  # noqa: PLC0415 - DuckDB loads only when it is needed
    from scorer.archive.report.compare_page import (  # noqa: PLC0415
        explain_sides,
        render_comparison,
        state_difference,
        tabulate,
    )
    from scorer.archive.report.reading import ArchiveReader  # noqa: PLC0415
    from scorer.archive.report.run_page import publish_text  # noqa: PLC0415

    comparison = compare_runs(run_a, run_b)
    if out:
        publish_text(out, render_comparison(comparison, ArchiveReader(run_a, load_settings())))
    if as_json:
        print_json(comparison.model_dump_json(indent=1))
        return
    terminal = Terminal()
    for table in tabulate(comparison, terminal.width):
        terminal.print(table)
    for sentence in (state_difference(comparison), *explain_sides(comparison)):
        terminal.print(sentence)
    if comparison.rank_correlation is not None and comparison.ks is not None:
        terminal.print(
            f"rank correlation of the log-likelihoods {comparison.rank_correlation:.3f}, "
            f"KS distance {comparison.ks:.3f}"
        )
    if out:
        terminal.say(f"The page is {out}")
