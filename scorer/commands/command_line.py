"""What all commands share: options, and errors as one sentence on standard error and one exit code."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ingest.clips import Sampling
from ingest.detector_pool import SandboxBroken
from ingest.device import DeviceUnavailable
from scorer.commands.terminal import Terminal, print_traceback, tolerate_encoding
from scorer.errors import Exit, UnlensedError, UsageError
from scorer.extras import NEEDED, describe_missing
from scorer.files import require_local
from scorer.observe.printable import printable
from scorer.version import PACKAGE, VERSION

# Typer carries its own copy of Click under a private name; this is its ClickException, the base of usage errors.
_CommandLineError: type[Any] = typer.BadParameter.__mro__[2]


class CommandGroup(TyperGroup):
    """Commands that name a missing package with the extra that includes it."""

    needed: Sequence[str] = ()  # extras of every command of the group

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - Click's
        """Run the command that was called.

        Raises:
            MissingExtra: a package of an extra is not installed.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            called = ctx.invoked_subcommand or ""
            needed = (*self.needed, *NEEDED.get(called, ()))
            missing = describe_missing(called, error.name or "", needed)
            if missing is None:
                raise
            raise missing from error


def print_version(*, wanted: bool) -> None:
    """Print the version and exit if it is wanted; a callback of `--version`."""
    if wanted:
        print(f"{PACKAGE} {VERSION}")  # noqa: T201 - the output asked for
        raise typer.Exit(Exit.DONE)


# Options of every command that reads a bundle; the settings are `bundle_digest` and `bundle_key`.
DigestOption = Annotated[str | None, typer.Option(help="The SHA-256 that bundle.json must have.")]
KeyOption = Annotated[Path | None, typer.Option(help="An Ed25519 public key in PEM that must have signed bundle.json.")]
SamplingOption = Annotated[Sampling | None, typer.Option(help="Which frames of a clip are scored. [default: interval]")]
FramesOption = Annotated[
    float | None,
    typer.Option("--frames-per-second", min=0.001, max=1000, help="Of a clip's scored frames. [default: 1]"),
]


def choose_video(sampling: Sampling | None, frames_per_second: float | None) -> dict[str, object] | None:
    """Return the settings of clips that flags give, or None without one."""
    given = {"sampling": sampling, "frames_per_second": frames_per_second}
    return {name: value for name, value in given.items() if value is not None} or None


VersionOption = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
]


def local_path(path: Path | None) -> Path | None:
    """Return the path of an option; a callback of options that name an output.

    Raises:
        typer.BadParameter: it is a URI.
    """
    try:
        if path is not None:
            require_local(path)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    return path


# Expected errors of other packages; a builtin comes last, because its subclasses have their own codes.
OTHERS: dict[type[Exception], Exit] = {
    SandboxBroken: Exit.BAD_DATA,
    DeviceUnavailable: Exit.BAD_CONFIGURATION,
    OSError: Exit.TRY_AGAIN,  # for example a full disk
}
EXPECTED: tuple[type[Exception], ...] = (UnlensedError, *OTHERS)


def find_exit(error: Exception, others: dict[type[Exception], Exit] = OTHERS) -> Exit:
    """Return the exit code of an error; an unexpected error has that of a defect.

    Args:
        error: the error that ended the command.
        others: codes of errors that are not an `UnlensedError`; the first match counts.
    """
    if isinstance(error, UnlensedError):
        return error.exit_code
    return next((code for kind, code in others.items() if isinstance(error, kind)), Exit.CRASHED)


def run_command(app: typer.Typer, name: str, others: dict[type[Exception], Exit] = OTHERS) -> None:
    """Run a command line and exit: each expected error prints a sentence and has its exit code.

    Args:
        app: the commands.
        name: of the program.
        others: see `find_exit`.
    """
    tolerate_encoding()
    sys.excepthook = lambda _kind, error, _trace: print_traceback(error)
    terminal = Terminal(stderr=True)
    try:
        code = get_command(app).main(prog_name=name, standalone_mode=False)
    except _CommandLineError as error:
        written = io.StringIO()
        if getattr(error, "ctx", None):
            error.ctx.color = True  # otherwise it removes escape sequences, which must be shown
        error.show(file=written)
        for line in written.getvalue().rstrip("\n").split("\n"):
            sys.stderr.write(printable(line) + "\n")
        code = Exit.USAGE
    except (typer.Abort, KeyboardInterrupt):
        terminal.say(f"{name}: stopped", style="yellow")
        code = Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - every error has an exit code
        code = find_exit(error, others)
        if code is Exit.CRASHED:
            sys.excepthook(type(error), error, error.__traceback__)  # logs may have replaced the hook
        else:
            terminal.say(f"{name}: {error}", style="bold red")
    sys.exit(int(code or Exit.DONE))
