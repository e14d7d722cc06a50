"""`unlensed bundle`: copy and check a bundle, and build the plan of a GPU bundle."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from scorer.bundle.bundle import PLAN_FILE, Bundle
from scorer.bundle.exif_heads import read_exif_heads
from scorer.bundle.signature import read_trusted_bundle
from scorer.commands.command_line import DigestOption, KeyOption
from scorer.commands.terminal import Terminal
from scorer.engines.base import Embedder
from scorer.engines.local import open_local_engine, open_sandbox
from scorer.engines.tensorrt.plan import read_plan
from scorer.engines.verify import verify_engine
from scorer.settings import Settings, load_settings

bundle_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Copy and check a bundle; build a GPU bundle's plan."
)


@bundle_app.command(short_help="Copy a bundle from an object store or a folder.")
def fetch(
    source: Annotated[str, typer.Argument(help="A folder, or a prefix of an object store: s3://bucket/bundles/a.")],
    folder: Annotated[
        Path, typer.Argument(help="The target: an empty or new folder, or one that contains this copy already.")
    ],
) -> None:
    """Copy a bundle from an object store or a folder; then `unlensed bundle verify` it.

    The manifest is written last, so that an interrupted copy is not a bundle. The same command completes an interrupted
    copy and leaves a complete one unchanged: a restarted container reuses its copy.
    """
    from scorer.bundle.fetch import fetch_bundle  # noqa: PLC0415 - it needs the extra `scan`

    Terminal().say(fetch_bundle(source, folder))


@bundle_app.command(short_help="Check a bundle's files and its golden faces.")
def verify(  # noqa: PLR0913 - one parameter per flag
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    *,
    digest: DigestOption = None,
    key: KeyOption = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Check the files only, without an engine.")] = False,
    triton: Annotated[str | None, typer.Option(help="Use the engine of Triton at this gRPC host:port.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
) -> None:
    """Check digests, schema and arrays, then send the golden faces through the live engine."""
    settings = load_settings(
        bundle=folder,
        bundle_digest=digest,
        bundle_key=key,
        threads=threads,
        triton={"url": triton} if triton else None,
    )
    checked = read_trusted_bundle(settings)
    read_exif_heads(checked)  # scoring does not read them
    if files_only:
        Terminal().say(f"{folder}: {len(checked.manifest.files)} files as recorded. Digest {checked.model.digest}")
        return
    if (folder / PLAN_FILE).is_file():
        read_plan(checked)  # a plan of another graph is always refused
    with _opened_engine(checked, settings, through_triton=triton is not None) as (engine, name):
        drift = verify_engine(checked, engine)
    Terminal().say(
        f"{folder}: {len(checked.manifest.files)} files as recorded, golden faces {drift:.2g} nats from their results "
        f"by {name} ({checked.manifest.golden_tolerance_nats:g} allowed). Digest {checked.model.digest}"
    )


@bundle_app.command(short_help="Build a GPU bundle's plan, on the GPU that serves.")
def build(
    folder: Annotated[Path, typer.Argument(help="The folder of a bundle for TensorRT.")],
    *,
    digest: DigestOption = None,
    key: KeyOption = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if the plan is still valid.")] = False,
) -> None:
    """Build the plan of a GPU bundle, on the GPU and with the TensorRT version that serve it."""
    from scorer.engines.tensorrt.build import build_plan, find_current_plan  # noqa: PLC0415 - only this command needs it

    checked = read_trusted_bundle(load_settings(bundle=folder, bundle_digest=digest, bundle_key=key))
    current = None if force else find_current_plan(checked)
    plan, why = (current, "") if current else build_plan(checked)
    reason = f" ({why})" if why else ""
    Terminal().say(
        f"{plan.path}: {'already ' if current else ''}built by {plan.build.builder} {plan.build.version} on "
        f"{plan.build.gpu}, for batches of {plan.build.batches.min} to {plan.build.batches.max}{reason}"
    )


@contextmanager
def _opened_engine(bundle: Bundle, settings: Settings, *, through_triton: bool) -> Iterator[tuple[Embedder, str]]:
    """Yield the engine and its name."""
    if not through_triton:
        with closing(open_sandbox(bundle, settings.threads, finds=False)) as sandbox:
            local = open_local_engine(bundle, settings.device, settings.threads, sandbox)
            yield local.embedder, local.name
        return
    from scorer.engines.triton.embedder import TritonEmbedder  # noqa: PLC0415 - engines are imported on demand

    remote = TritonEmbedder(bundle, settings.triton)
    try:
        yield remote, f"Triton at {settings.triton.url}"
    finally:
        remote.close()
