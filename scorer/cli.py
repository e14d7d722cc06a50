"""The `unlensed` command: thin functions over the rooms, with one meaning for each exit code."""

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ingest.device import DeviceUnavailable
from scorer.archive.endings import Interrupted, Outage, RunBroken, RunNotReady, RunRefused
from scorer.archive.items import SourceChanged, SourceDamaged
from scorer.bundle import BundleMismatch
from scorer.bundle_cli import bundle_app
from scorer.decide import PolicyError
from scorer.dlq_cli import dlq_app
from scorer.embed import BackendUnavailable
from scorer.messages import Status
from scorer.paths import UsageError, expand_paths, read_boxes, read_image, request_for
from scorer.payloads.https import PayloadUnavailable
from scorer.plan_builder import NoBuilder
from scorer.report_cli import compare, report
from scorer.scan_cli import scan
from scorer.settings import SettingsError, load_settings
from scorer.stream.broker import BrokerRefused, BrokerUnavailable
from scorer.stream.detector_pool import DetectorBroken
from scorer.stream.replay import TooScattered

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finds faces that are unlike the photographs its bundle knows.",
)
app.add_typer(bundle_app, name="bundle")
app.add_typer(dlq_app, name="dlq")
app.command()(scan)
app.command()(report)
app.command()(compare)


class Exit(IntEnum):
    """Exit codes: sysexits.h where it has one."""

    DONE = 0
    USAGE = 2
    FAILURES = 3
    BAD_DATA = 65
    CRASHED = 70
    GPU_LOST = 71  # `scorer.cuda.faults` ends the process with it, from wherever it is
    TRY_AGAIN = 75
    BAD_CONFIGURATION = 78


class Document(StrEnum):
    """What `unlensed schema` prints."""

    RESULT = "result"
    REQUEST = "request"
    ASYNCAPI = "asyncapi"


CODES: dict[type[Exception], Exit] = {
    UsageError: Exit.USAGE,
    BundleMismatch: Exit.BAD_DATA,
    DetectorBroken: Exit.BAD_DATA,
    RunBroken: Exit.BAD_DATA,
    SettingsError: Exit.BAD_CONFIGURATION,
    PolicyError: Exit.BAD_CONFIGURATION,
    DeviceUnavailable: Exit.BAD_CONFIGURATION,
    NoBuilder: Exit.BAD_CONFIGURATION,
    BrokerRefused: Exit.BAD_CONFIGURATION,
    BrokerUnavailable: Exit.TRY_AGAIN,
    TooScattered: Exit.BAD_DATA,
    RunRefused: Exit.BAD_CONFIGURATION,
    SourceChanged: Exit.BAD_DATA,
    SourceDamaged: Exit.BAD_DATA,
    RunNotReady: Exit.TRY_AGAIN,
    Interrupted: Exit.TRY_AGAIN,
    Outage: Exit.TRY_AGAIN,
    PayloadUnavailable: Exit.TRY_AGAIN,
    BackendUnavailable: Exit.TRY_AGAIN,  # Triton does not answer, or the GPU's memory is taken by others
    OSError: Exit.TRY_AGAIN,  # a full disk, a folder that may not be written
}

BundleOption = Annotated[Path | None, typer.Option(help="The bundle to score with. [default: model_repository]")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines on standard output instead of a table.")]


@app.command()
def score(  # noqa: PLR0913 - one parameter per flag
    paths: Annotated[list[str], typer.Argument(help="Files, directories, globs, or - for a list on standard input.")],
    *,
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    faces: Annotated[
        Path | None, typer.Option(help="A JSON file that brings face boxes instead of finding them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the results to this file, one JSON line an image.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write one annotated picture per image into this folder.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    max_failed: Annotated[int, typer.Option(help="Exit with 3 when more images than this could not be scored.")] = 0,
) -> None:
    """Score images: how unlike the photographs this bundle knows is each face?"""
    from scorer.engine import LocalScorer  # noqa: PLC0415 - engines load only when they are needed
    from scorer.progress import Progress  # noqa: PLC0415
    from scorer.report import ResultTable  # noqa: PLC0415

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `unlensed score ... --json | head` ends quietly
    settings = load_settings(bundle=bundle, device=device, threads=threads)
    files = expand_paths(paths, sys.stdin)
    boxes = read_boxes(faces) if faces else None
    if picture:
        picture.mkdir(parents=True, exist_ok=True)
    scorer = LocalScorer(settings)
    table = ResultTable()
    counts: Counter[str] = Counter()
    with _line_writer(out) as write_line, Progress("scoring", len(files)) as progress:
        for path, result in zip(files, scorer.score(request_for(file, boxes) for file in files), strict=True):
            line = result.model_dump_json()
            write_line(line)
            if as_json:
                print(line, flush=True)  # noqa: T201 - the output asked for
            else:
                table.add(result)
            if picture and (result.decision or result.status is Status.NO_FACE):
                from scorer.picture import draw_picture  # noqa: PLC0415

                draw_picture(read_image(path.absolute().as_uri(), settings.limits.max_bytes), result, picture)
            counts[result.decision or result.status] += 1
            progress.advance(1, **dict(sorted(counts.items())))
    if not as_json:
        table.show(scorer.bundle)
    failed = counts[Status.FAILED] + counts[Status.UNSUPPORTED]
    raise typer.Exit(Exit.FAILURES if failed > max_failed else Exit.DONE)


@app.command()
def serve(  # noqa: PLR0913 - one parameter per flag
    *,
    bundle: BundleOption = None,
    kafka: Annotated[str | None, typer.Option(help="Brokers, host:port,host:port.")] = None,
    triton: Annotated[
        str | None, typer.Option(help="Triton's gRPC host:port. [default: score in this process]")
    ] = None,
    policies: Annotated[Path | None, typer.Option(help="Policies per tenant and stream, a TOML file.")] = None,
    mode: Annotated[str | None, typer.Option(help="live, or shadow: the same requests, other topics.")] = None,
    delivery: Annotated[str | None, typer.Option(help="at_least_once or exactly_once.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Answer a file of requests, one JSON object a line, without any broker.")
    ] = None,
    insecure_dev: Annotated[
        bool, typer.Option("--insecure-dev", help="Allow connections in the clear to other machines.")
    ] = False,
) -> None:
    """Answer a stream of requests: every record gets one result or one dead letter."""
    from scorer import serve as service  # noqa: PLC0415 - engines load only when they are needed

    settings = load_settings(
        bundle=bundle,
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
    except tuple(CODES) as error:
        service.log.error("the service ends", error=str(error))
        raise typer.Exit(_exit_code(error)) from error
    raise typer.Exit(Exit.FAILURES if dead else Exit.DONE)


@app.command()
def doctor(*, as_json: JsonOption = False, bundle: BundleOption = None, device: str | None = None) -> None:
    """Say which engine, decoder, device and bundle are in use and why, and what is missing."""
    from scorer.doctor import examine  # noqa: PLC0415

    findings = examine(bundle=bundle, device=device)
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings]))  # noqa: T201 - the output asked for
    else:
        findings_console = Console()
        for finding in findings:
            findings_console.print(finding.line(), soft_wrap=True)
    raise typer.Exit(Exit.DONE if all(finding.usable for finding in findings) else Exit.BAD_CONFIGURATION)


@app.command()
def schema(
    document: Annotated[Document, typer.Argument(help="What to print.")] = Document.RESULT,
    *,
    write: Annotated[Path | None, typer.Option(help="Write all of them into this folder instead.")] = None,
) -> None:
    """Print the JSON Schema of a result or a request, or the AsyncAPI document of the topics."""
    from scorer.schemas import document_text, write_documents  # noqa: PLC0415 - only this command needs them

    if write:
        write_documents(write)
    else:
        print(document_text(document), end="")  # noqa: T201 - the output asked for


@contextmanager
def _line_writer(path: Path | None) -> Iterator[Callable[[str], object]]:
    if path is None:
        yield lambda _line: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        yield lambda line: file.write(line + "\n")


def _exit_code(error: Exception) -> Exit:
    return next(code for kind, code in CODES.items() if isinstance(error, kind))


def main() -> None:
    """Run the command line; every foreseen error is one sentence and an exit code."""
    try:
        app()
    except tuple(CODES) as error:
        Console(stderr=True).print(
            f"unlensed: {error}", style="bold red", soft_wrap=True, markup=False, highlight=False
        )
        sys.exit(_exit_code(error))
    except Exception:  # noqa: BLE001 - whatever it is, it has an exit code of its own
        sys.excepthook(*sys.exc_info())
        sys.exit(Exit.CRASHED)
