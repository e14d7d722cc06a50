"""`unlensed calibrate`: fit a bundle to the photographs of a scan, or check a scan against the promise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scorer.commands.command_line import DigestOption, KeyOption, local_path
from scorer.commands.terminal import Terminal
from scorer.errors import UsageError
from scorer.observe.printable import count_noun, print_json, printable
from scorer.settings import load_settings

QUALITY = "quality"  # of `--by`: the strata

if TYPE_CHECKING:
    from rich.table import Table

    from scorer.archive.calibration.check import MeasuredRate, PromiseCheck


def calibrate(  # noqa: PLR0913 - one parameter per flag
    bundle: Annotated[Path | None, typer.Argument(help="The bundle that scored the run.")] = None,
    *,
    from_run: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="The folder of a finished scan, with --keep-features.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the new bundle, empty or new.", file_okay=False, callback=local_path),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="What is split whole between the fit and the calibration: source, photograph, or the name of a column "
            "of the results, such as camera. quality: split as by default; p-values by size and JPEG quality, which is "
            "the default, too. [default: source, or photograph where the run has few sources]"
        ),
    ] = None,
    calibration_only: Annotated[
        bool, typer.Option("--calibration-only", help="Keep the mixture; the run needs no features.")
    ] = False,
    strata: Annotated[
        bool,
        typer.Option("--strata/--no-strata", help="Calibrate each size and JPEG quality of faces by itself, too."),
    ] = True,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A CSV or JSONL file of reviewers' labels: result_id, optionally face, and label (photograph, "
            "generated or unsure). Only photographs are fitted.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Measure how far this scan is from the promised rates; nothing is written."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output instead of a table.")] = False,
    digest: DigestOption = None,
    key: KeyOption = None,
) -> None:
    """Fit a bundle's mixture and calibration to the photographs of a scan; or check a scan."""
    from scorer.archive.calibration.labels import read_labels  # noqa: PLC0415 - Arrow loads only when it is needed

    terminal = Terminal(stderr=True)
    found = read_labels(labels) if labels else None
    if check:
        if bundle or from_run or out:
            message = "--check RUN measures the run with the bundle that scored it: leave BUNDLE, --from and --out out"
            raise UsageError(message)
        from scorer.archive.calibration.check import check_promise  # noqa: PLC0415
        from scorer.archive.calibration.faces import read_faces  # noqa: PLC0415

        _show_check(check_promise(read_faces(check, labels=found)), as_json=as_json)
        return
    if not (bundle and from_run and out):
        message = (
            "name the bundle, the scan and the new bundle: unlensed calibrate BUNDLE --from RUN --out BUNDLE2; or "
            "measure a scan: unlensed calibrate --check RUN"
        )
        raise UsageError(message)
    if by == QUALITY and not strata:
        message = "--by quality calibrates by stratum: leave --no-strata out"
        raise UsageError(message)
    from scorer.archive.calibration.new_bundle import write_calibrated_bundle  # noqa: PLC0415
    from scorer.archive.calibration.refit import calibrate_bundle  # noqa: PLC0415
    from scorer.bundle.signature import read_trusted_bundle  # noqa: PLC0415
    from scorer.decide import Policy, resolve_policy  # noqa: PLC0415

    trusted = read_trusted_bundle(load_settings(bundle=bundle, bundle_digest=digest, bundle_key=key))
    calibrated = calibrate_bundle(
        trusted,
        from_run,
        by=None if by == QUALITY else by,
        labels=found,
        calibration_only=calibration_only,
        strata=strata,
        report=terminal.say,
    )
    written = write_calibrated_bundle(trusted, calibrated, out)
    if as_json:
        import json  # noqa: PLC0415

        facts = {"bundle_id": written.manifest.bundle_id, "digest": written.model.digest, "facts": calibrated.facts}
        print_json(json.dumps(facts | {"notes": calibrated.notes, "parts": calibrated.thresholds}))
    for name, fact in calibrated.facts.items():
        terminal.say(f"{name}: {fact}")
    _, unsupported = resolve_policy(Policy(), written.manifest.calibration)
    for note in filter(None, (*calibrated.notes, unsupported)):
        terminal.say(note, style="yellow")
    terminal.say(f"{out}: {written.manifest.bundle_id}, digest {written.model.digest}, not signed")
    terminal.say(f"Next: unlensed bundle verify {out}; then scan other photographs with it, and --check that run")


def _show_check(check: "PromiseCheck", *, as_json: bool) -> None:
    if as_json:
        print_json(check.model_dump_json(indent=1))
        return
    terminal = Terminal()
    terminal.print(_tabulate(check))
    if check.labels.keys() and sum(check.labels.values()):
        counted = ", ".join(f"{count:,} {label}" for label, count in check.labels.items())
        terminal.print(f"labelled faces: {counted}; {count_noun(check.unknown_labels, 'label')} without a result here")
    if check.copies:
        terminal.print(f"{count_noun(check.copies, 'copy', 'copies')} of faces counted once")
    terminal.print(check.sentence)


def _tabulate(check: "PromiseCheck") -> "Table":
    """Return a table that fits 80 columns."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("faces of", overflow="fold")
    for name in ("promised", "p at most that (95 %)", "faces", "photos"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    kinds = ("", check.false_alarms), ("", check.labelled), ("", check.caught)
    groups = ("by stratum", check.by_stratum), ("by source", check.by_source), ("by camera", check.by_camera)
    for heading, rows in (*kinds, *groups):
        if heading and rows:
            table.add_row(heading, style="bold")
        for row in rows:
            table.add_row(*_list_cells(" " if heading else "", row))
    return table


def _list_cells(indent: str, row: "MeasuredRate") -> tuple[str, ...]:
    return (
        indent + (printable(row.name) or "not stated"),
        f"{100 * row.promised:g} %",
        f"{100 * row.share:.1f} % ({100 * row.low:.1f} to {100 * row.high:.1f})",
        f"{row.faces:,}",
        f"{row.photographs:,}",
        "caught" if row.verdict is None else row.verdict.split()[0],
    )
