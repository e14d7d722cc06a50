"""The `unlensed` command: thin functions over the other packages, with one meaning for each exit code."""

import json
import signal
import sys
from contextlib import closing
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.device import Request
from scorer.commands.api import api
from scorer.commands.bundle import bundle_app
from scorer.commands.calibrate import calibrate
from scorer.commands.command_line import (
    EXPECTED,
    CommandGroup,
    DigestOption,
    FramesOption,
    KeyOption,
    SamplingOption,
    VersionOption,
    choose_video,
    find_exit,
    local_path,
    run_command,
)
from scorer.commands.dlq import dlq_app
from scorer.commands.erase import erase
from scorer.commands.explain import explain
from scorer.commands.inputs import FacesMissing, FoundFiles, assign_boxes, expand_paths, request_for
from scorer.commands.report import compare, report
from scorer.commands.review import review
from scorer.commands.scan import scan
from scorer.commands.terminal import Terminal
from scorer.errors import (
    Exit,
    UsageError,
    describe_exits,
)
from scorer.face_boxes import read_boxes
from scorer.messages import Status
from scorer.observe.printable import count_noun, print_json, printable_json
from scorer.payloads.local_file import read_image
from scorer.process_exit import delay_interrupt
from scorer.settings import Delivery, Mode, load_settings

if TYPE_CHECKING:
    from scorer.commands.annotate import PictureFolder

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich would read [default: ...] and the brackets of an argument as markup
    help="Finds faces that are unlike the photographs its bundle knows.",
    epilog=describe_exits(),
)
app.add_typer(bundle_app, name="bundle")
app.add_typer(dlq_app, name="dlq")
app.command(short_help="Explain the score of one face.")(explain)
app.command(short_help="Answer HTTP requests.")(api)
app.command(short_help="Score an archive, resumably.")(scan)
app.command(short_help="Write a run's summary.json and report.html again.")(report)
app.command(short_help="Label a run's least typical faces in a browser.")(review)
app.command(short_help="Erase images from a finished run.")(erase)
app.command(short_help="Compare two runs over the same images.")(compare)
app.command(short_help="Fit a bundle to a run's photographs, or check a run.")(calibrate)


class Document(StrEnum):
    """What `unlensed schema` prints."""

    RESULT = "result"
    REQUEST = "request"
    ASYNCAPI = "asyncapi"


BundleOption = Annotated[Path | None, typer.Option(help="The bundle to score with. [default: the starter bundle]")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines on standard output instead of a table.")]
DeviceOption = Annotated[Request | None, typer.Option(help="Where the networks run. [default: auto]")]


@app.callback()
def start(
    *,
    version: VersionOption = False,
) -> None:
    """Finds faces that are unlike the photographs its bundle knows."""


@app.command(short_help="Score images: how unlike what the bundle knows is each face?")
def score(  # noqa: PLR0913 - one parameter per flag
    paths: Annotated[
        list[str], typer.Argument(help="Files, directories, globs, or - for a list on standard input.", metavar="PATH")
    ],
    *,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    digest: DigestOption = None,
    key: KeyOption = None,
    faces: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of face boxes, used instead of finding faces; its keys are paths as given here, or "
            "below the given folder.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    faces_missing: Annotated[
        FacesMissing,
        typer.Option(help="With --faces, a file without boxes: refuse to start, find its faces, skip it."),
    ] = FacesMissing.ERROR,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write the results to this file, one JSON line per image.", dir_okay=False, callback=local_path
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Write one annotated picture per image into this folder; those of an earlier run are removed.",
            file_okay=False,
            callback=local_path,
        ),
    ] = None,
    device: DeviceOption = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    sampling: SamplingOption = None,
    frames_per_second: FramesOption = None,
    max_failed: Annotated[int, typer.Option(help="Exit with 3 when more images than this could not be scored.")] = 0,
) -> None:
    """Score images: how unlike the photographs this bundle knows is each face?"""
    from scorer.commands.annotate import PictureFolder  # noqa: PLC0415
    from scorer.commands.progress import Progress  # noqa: PLC0415
    from scorer.commands.results_table import ResultTable, RunSummary  # noqa: PLC0415
    from scorer.local_scorer import LocalScorer  # noqa: PLC0415 - engines are imported on demand

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `unlensed score ... --json | head` exits without an error
    settings = load_settings(
        bundle=bundle,
        bundle_digest=digest,
        bundle_key=key,
        device=device,
        threads=threads,
        video=choose_video(sampling, frames_per_second),
    )
    found = expand_paths(paths, sys.stdin.buffer, picture)
    files = assign_boxes(found, read_boxes(faces) if faces else None, faces_missing)
    _refuse_overwriting(found, out, picture, faces)
    scorer = LocalScorer(settings)
    terminal, table, summary = Terminal(stderr=True), ResultTable(), RunSummary()
    pictures = (
        PictureFolder(
            picture,
            scorer.bundle.manifest.evaluation,
            scorer.sandbox,
            partial(terminal.say, style="yellow"),
            settings.video,
        )
        if picture
        else None
    )
    lines = _ResultFile(out)
    if scorer.policy_note:
        terminal.say(scorer.policy_note)
    try:
        with (
            lines,
            closing(scorer.score(map(request_for, files))) as results,
            Progress("scoring", len(files), console=terminal) as progress,
        ):
            for file, result in zip(files, results, strict=True):
                line = result.model_dump_json()
                with delay_interrupt():  # every line that is written is counted
                    lines.write(line)
                    if as_json:
                        print_json(line)
                    else:
                        table.add(result)
                    summary.add(result)
                if pictures and (result.decision or result.status is Status.NO_FACE):
                    pictures.add(result, partial(read_image, file.path.absolute().as_uri(), settings.limits.max_bytes))
                progress.advance(1, **summary.facts())
    except BaseException as error:
        end = summary.describe(found.skipped, _list_written(lines, pictures))
        terminal.say(f"stopped after {summary.images} of {len(files)} images: {end}", style="yellow")
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(Exit.INTERRUPTED) from None
        raise
    if not as_json:
        table.show(scorer.bundle, scorer.policy)
    terminal.say(summary.describe(found.skipped, _list_written(lines, pictures)))
    raise typer.Exit(Exit.FAILURES if summary.failed.total() > max_failed else Exit.DONE)


@app.command(short_help="Answer a stream of requests.")
def serve(  # noqa: PLR0913 - one parameter per flag
    *,
    bundle: BundleOption = None,
    digest: DigestOption = None,
    key: KeyOption = None,
    kafka: Annotated[str | None, typer.Option(help="Brokers, host:port,host:port.")] = None,
    triton: Annotated[
        str | None, typer.Option(help="Triton's gRPC host:port. [default: score in this process]")
    ] = None,
    policies: Annotated[Path | None, typer.Option(help="Policies per tenant and stream, a TOML file.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="shadow: the same requests, other topics. [default: live]")] = None,
    delivery: Annotated[
        Delivery | None, typer.Option(help="May a crash repeat answers? [default: at_least_once]")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Answer a file of requests, one JSON object a line, without any broker.")
    ] = None,
    insecure_dev: Annotated[
        bool, typer.Option("--insecure-dev", help="Allow unencrypted connections to other machines.")
    ] = False,
) -> None:
    """Answer a stream of requests: every record gets one result or one dead letter."""
    from scorer.stream import assemble as service  # noqa: PLC0415 - engines are imported on demand

    settings = load_settings(
        bundle=bundle,
        bundle_digest=digest,
        bundle_key=key,
        insecure_dev=insecure_dev or None,
        kafka={"bootstrap": kafka} if kafka else None,
        triton={"url": triton} if triton else None,
        stream={
            name: value for name, value in (("policies", policies), ("mode", mode), ("delivery", delivery)) if value
        }
        or None,
    )
    try:
        dead = service.replay(settings, replay) if replay else service.serve(settings)
    except EXPECTED as error:
        service.log.error("the service ends", error=str(error))
        raise typer.Exit(find_exit(error)) from error
    raise typer.Exit(Exit.FAILURES if dead else Exit.DONE)


@app.command(short_help="Show what is in use and why, and what is missing.")
def doctor(
    *,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    digest: DigestOption = None,
    key: KeyOption = None,
    device: DeviceOption = None,
) -> None:
    """Show which engine, decoder, device and bundle are in use and why, and what is missing."""
    from scorer.commands.doctor import examine  # noqa: PLC0415

    findings = examine(bundle, device, bundle_digest=digest, bundle_key=key)
    if as_json:
        print_json(json.dumps([finding.as_dict() for finding in findings]))
    else:
        terminal = Terminal()
        for finding in findings:
            terminal.print(finding.line(), soft_wrap=True)
    broken = {finding.part for finding in findings if finding.needed and not finding.usable}
    raise typer.Exit(Exit.DONE if not broken else Exit.BAD_DATA if broken == {"bundle"} else Exit.BAD_CONFIGURATION)


@app.command(short_help="Print the schema of a request, a result or the topics.")
def schema(
    document: Annotated[Document, typer.Argument(help="What to print.")] = Document.RESULT,
    *,
    write: Annotated[
        Path | None,
        typer.Option(help="Write all of them into this folder instead.", file_okay=False, callback=local_path),
    ] = None,
) -> None:
    """Print the JSON Schema of a result or a request, or the AsyncAPI document of the topics."""
    from scorer.schemas import document_text, write_documents  # noqa: PLC0415 - only this command needs them

    if write:
        write_documents(write)
    else:
        print_json(document_text(document).rstrip("\n"))


class _ResultFile:
    """The file of `--out`, if given: each line is in it as soon as it is written."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.written = path, 0

    def __enter__(self) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8", buffering=1)

    def write(self, line: str) -> None:
        """Write a line."""
        if self.path:
            self._file.write(printable_json(line) + "\n")
            self.written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path:
            self._file.close()


def _refuse_overwriting(found: FoundFiles, out: Path | None, picture: Path | None, faces: Path | None) -> None:
    """Refuse to overwrite an input.

    Raises:
        UsageError: --out names an image or the file of boxes, or an image is in the folder of --picture.
    """
    if picture and picture.resolve() in {folder.resolve() for folder in {file.path.parent for file in found.files}}:
        message = f"--picture {picture} contains images that are scored: name another folder"
        raise UsageError(message)
    inputs = [file.path for file in found.files] + ([faces] if faces else [])
    if out and out.exists() and any(path.exists() and path.samefile(out) for path in inputs):
        message = f"--out {out} is one of the input files: name another"
        raise UsageError(message)


def _list_written(lines: _ResultFile, pictures: "PictureFolder | None") -> list[str]:
    written = [f"{count_noun(lines.written, 'line')} in {lines.path}"] if lines.path else []
    if pictures:
        lost = f" ({pictures.failed} could not be written)" if pictures.failed else ""
        written.append(f"{count_noun(pictures.written, 'picture')} in {pictures.folder}{lost}")
    return written


def main() -> None:
    """Run the command line."""
    run_command(app, "unlensed")
