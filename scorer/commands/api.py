"""`unlensed api`: score by HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from scorer.commands.command_line import EXPECTED, DigestOption, KeyOption, find_exit
from scorer.errors import Exit
from scorer.settings import load_settings


def api(  # noqa: PLR0913 - one parameter per flag
    *,
    bundle: Annotated[Path | None, typer.Option(help="The bundle to score with. [default: the starter bundle]")] = None,
    digest: DigestOption = None,
    key: KeyOption = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: a free one. [default: 8000]")] = None,
    tokens: Annotated[Path | None, typer.Option(help="A file of bearer tokens, one a line; reread.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS: the certificate and its chain, in PEM.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="TLS: the certificate's key, in PEM.")] = None,
    policies: Annotated[Path | None, typer.Option(help="Policies per tenant and stream, a TOML file.")] = None,
    insecure_dev: Annotated[
        bool, typer.Option("--insecure-dev", help="Allow other machines without TLS and tokens.")
    ] = False,
) -> None:
    """Answer HTTP requests: POST /v1/score; /openapi.json describes every route."""
    from scorer.api import server  # noqa: PLC0415 - engines are imported on demand

    flags = {
        "host": host,
        "port": port,
        "token_file": tokens,
        "certificate_file": certificate,
        "key_file": private_key,
        "policies": policies,
    }
    settings = load_settings(
        bundle=bundle,
        bundle_digest=digest,
        bundle_key=key,
        insecure_dev=insecure_dev or None,
        api={name: value for name, value in flags.items() if value is not None} or None,
    )
    try:
        server.serve(settings)
    except EXPECTED as error:
        server.log.error("the service ends", error=str(error))
        raise typer.Exit(find_exit(error)) from error
    raise typer.Exit(Exit.DONE)
