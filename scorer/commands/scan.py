"""`unlensed scan`: score an archive once, in shards that can be stopped, resumed and shared between machines."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.device import Request
from scorer.commands.command_line import (
    DigestOption,
    FramesOption,
    KeyOption,
    SamplingOption,
    choose_video,
    local_path,
)
from scorer.commands.progress import Progress
from scorer.commands.terminal import Terminal
from scorer.errors import Exit, UsageError
from scorer.face_boxes import read_boxes
from scorer.meaning import explain_decisions
from scorer.observe.printable import print_json
from scorer.process_exit import stop_on_signals
from scorer.settings import Settings, load_settings

if TYPE_CHECKING:
    from scorer.archive.session import Session
    from scorer.archive.source.sources import Archive

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"


class ScanEngine(StrEnum):
    """What runs the shards."""

    LOCAL = "local"
    RAY = "ray"


def scan(  # noqa: PLR0913 - one parameter per flag
    sources: Annotated[
        list[str], typer.Argument(help="Folders, globs, WebDataset tars ({000..015}), manifests; local or s3://...")
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="The run's folder, the same one for all its processes.", file_okay=False, callback=local_path
        ),
    ],
    bundle: Annotated[Path | None, typer.Option(help="The bundle to score with. [default: the starter bundle]")] = None,
    digest: DigestOption = None,
    key: KeyOption = None,
    device: Annotated[Request | None, typer.Option(help="Where the networks run. [default: auto]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    shard_images: Annotated[int, typer.Option(min=1, help="Images in a shard; a tar is one shard.")] = 1000,
    uri_column: Annotated[str | None, typer.Option(help="The manifests' column with the images' URIs.")] = None,
    bytes_column: Annotated[str | None, typer.Option(help="The Parquet manifests' column with the images.")] = None,
    faces_column: Annotated[str | None, typer.Option(help="The manifests' column with face boxes.")] = None,
    faces: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of face boxes by content_id; the detector does not run.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    keep_features: Annotated[
        bool,
        typer.Option(
            "--keep-features",
            help="Also write the features of each scored face, for `unlensed calibrate`. They describe a face: protect "
            "them like the archive, and delete RUN/features afterwards.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only count the images, and estimate the duration from a few of them."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: JSON on a terminal, too.")] = False,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="If --out contains another run, rename its folder and start a new run.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Score again the images that could not be read, or not in time.")
    ] = False,
    item_timeout_s: Annotated[float, typer.Option(min=0.1, help="For reading one image and finding its faces.")] = 60,
    shard_timeout_s: Annotated[
        float | None, typer.Option(min=1, help="For one shard; its remaining images can be retried later.")
    ] = None,
    sampling: SamplingOption = None,
    frames_per_second: FramesOption = None,
    index: Annotated[
        int | None, typer.Option(min=0, help=f"This process takes every OF-th shard. [default: {INDEX_VARIABLE} or 0]")
    ] = None,
    of: Annotated[int, typer.Option(min=1, help="How many processes share the run.")] = 1,
    engine: Annotated[ScanEngine, typer.Option(help="In this process, or on Ray.")] = ScanEngine.LOCAL,
    max_failed: Annotated[int, typer.Option(min=0, help="Exit with 3 when more images could not be scored.")] = 0,
) -> None:
    """Score an archive; the same command resumes a run that stopped."""
    from scorer.archive.cleanup import remove_uncommitted_files  # noqa: PLC0415 - Arrow loads only when it is needed
    from scorer.archive.session import join_run  # noqa: PLC0415
    from scorer.archive.source.sources import Archive  # noqa: PLC0415

    index = _read_index() if index is None else index
    if index >= of:
        message = f"--index {index} is not below --of {of}: indexes begin with 0"
        raise UsageError(message)
    settings = load_settings(
        bundle=bundle,
        bundle_digest=digest,
        bundle_key=key,
        device=device,
        threads=threads,
        video=choose_video(sampling, frames_per_second),
    )
    named = tuple(_read_argument(name) if "://" in name else str(Path(name).absolute()) for name in sources)
    archive = Archive(named, *(name and _read_argument(name) for name in (uri_column, bytes_column, faces_column)))
    if dry_run:
        _print_estimate(archive, settings, shard_images, faces, as_json=as_json)
        return
    if faces and not read_boxes(faces):  # raises before the run is planned
        message = f"{faces} names no image: the file of --faces must contain face boxes by content_id"
        raise UsageError(message)
    faces_digest = hashlib.sha256(faces.read_bytes()).hexdigest() if faces else None
    session = join_run(
        out,
        archive,
        settings,
        shard_images=shard_images,
        faces_digest=faces_digest,
        keep_features=keep_features,
        first=index == 0,
        new_run=new_run,
    )
    terminal = Terminal(stderr=True)
    if session.run.policy_note:
        terminal.say(session.run.policy_note)
    own = range(index, session.run.shards, of)
    session = session.with_limits(faces, item_timeout_s, shard_timeout_s)
    remove_uncommitted_files(session.folder, own)
    if session.has_work(own, retry_failed=retry_failed):
        (_scan_on_ray if engine is ScanEngine.RAY else _scan_here)(session, own, retry_failed=retry_failed)
    outcome = session.finish(own)
    for line in outcome.describe(str(out)):
        terminal.say(line)
    if keep_features:
        terminal.say(f"Features of faces: {out}/features. Protect them, and delete them after `unlensed calibrate`")
    for sentence in explain_decisions(session.run.evaluation, session.run.policy):
        terminal.say(sentence)
    raise typer.Exit(Exit.FAILURES if outcome.counts["failed"] > max_failed else Exit.DONE)


def _scan_here(session: "Session", own: range, *, retry_failed: bool) -> None:
    from scorer.archive.scan import ScanProgress  # noqa: PLC0415 - engines load only when they are needed
    from scorer.local_scorer import LocalScorer  # noqa: PLC0415

    scorer = LocalScorer(session.settings)
    with _open_progress(session, own) as progress:

        def show_progress(done: ScanProgress) -> None:
            counts, elapsed_s = done.counts, progress.elapsed_s
            progress.advance(
                1,
                faces_per_s=float(f"{counts['faces'] / elapsed_s:.4g}"),
                flagged=counts["flag"],
                failed=counts["failed"],
                slowest=max(done.stage_s, key=done.stage_s.__getitem__, default=""),
            )

        scan = session.open_scan(scorer, show_progress)
        with stop_on_signals(scan.stop):  # after the current batch
            scan.run(own, retry_failed=retry_failed)


def _scan_on_ray(session: "Session", own: range, *, retry_failed: bool) -> None:
    from scorer.archive.ray_scan import scan_on_ray  # noqa: PLC0415 - only this module imports ray

    failed = 0
    with _open_progress(session, own) as progress:
        for counts in scan_on_ray(session, own, retry_failed=retry_failed):
            failed += counts["failed"]
            progress.advance(counts["images"], failed=failed)


@contextmanager
def _open_progress(session: "Session", own: range) -> Iterator[Progress]:
    with Progress("scanning", None) as progress:
        progress.begin(*session.count_images(own))
        yield progress


def _read_argument(text: str) -> str:
    """Return an argument that is not a path, decoded as UTF-8 in every locale."""
    return os.fsencode(text).decode(errors="surrogateescape")


def _read_index() -> int:
    text = os.environ.get(INDEX_VARIABLE, "0")
    if not text.isdecimal():
        message = f"{INDEX_VARIABLE} is {text!r}, not the index of a process: set --index"
        raise UsageError(message)
    return int(text)


def _print_estimate(
    archive: "Archive", settings: Settings, shard_images: int, faces: Path | None, *, as_json: bool
) -> None:
    from scorer.archive.source.estimate import estimate_archive  # noqa: PLC0415 - Arrow loads only when it is needed
    from scorer.archive.trial import tabulate, try_scan  # noqa: PLC0415 - engines load only when they are needed
    from scorer.local_scorer import LocalScorer  # noqa: PLC0415

    estimate = estimate_archive(archive, settings.payloads, shard_images, settings.limits.max_bytes)
    trial = try_scan(estimate, LocalScorer(settings), read_boxes(faces) if faces else None)
    terminal = Terminal()
    if as_json or not terminal.is_terminal:
        planned = {"left_out": estimate.facts.left_out, "tar_images": estimate.tar_images}
        print_json(json.dumps(asdict(estimate.facts) | planned | asdict(trial)))
    else:
        terminal.print(tabulate(estimate, trial))
