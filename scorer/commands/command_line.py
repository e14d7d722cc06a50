"""How a command of this project is called and how it ends: one sentence on standard error and one exit code."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

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
    """Commands whose missing packages are named with the extra that brings them."""

    needed: Sequence[str] = ()  # by every command of the group

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - Click's
        """Run the command that was called.

        Raises:
            MissingExtra: a package that an extra brings is not installed.
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
    """Print the version and end, where it is wanted; a callback of `--version`."""
    if wanted:
        print(f"{PACKAGE} {VERSION}")  # noqa: T201 - the output asked for
        raise typer.Exit(Exit.DONE)


# Flags of every command that reads a bundle; the settings of the same meaning are `bundle_digest` and `bundle_key`.
DigestOption = Annotated[str | None, typer.Option(help="The SHA-256 that bundle.json must have.")]
KeyOption = Annotated[Path | None, typer.Option(help="An Ed25519 public key in PEM that must have signed bundle.json.")]
VersionOption = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and end.")
]


def local_path(path: Path | None) -> Path | None:
    """Return the path that an option names; a callback of options that name where to write.

    Raises:
        typer.BadParameter: it is a URI, which would become a folder of that name.
    """
    try:
        if path is not None:
            require_local(path)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    return path


# Foreseen errors of other packages; a builtin comes last, because its subclasses have codes of their own.
OTHERS: dict[type[Exception], Exit] = {
    SandboxBroken: Exit.BAD_DATA,
    DeviceUnavailable: Exit.BAD_CONFIGURATION,
    OSError: Exit.TRY_AGAIN,  # a full disk, a folder that may not be written
}
FORESEEN: tuple[type[Exception], ...] = (UnlensedError, *OTHERS)


def find_exit(error: Exception, others: dict[type[Exception], Exit] = OTHERS) -> Exit:
    """Return the exit code of an error; that of a defect where it is not foreseen.

    Args:
        error: what ended the command.
        others: codes of errors that are no `UnlensedError`; the first that fits counts.
    """
    if isinstance(error, UnlensedError):
        return error.exit_code
    return next((code for kind, code in others.items() if isinstance(error, kind)), Exit.CRASHED)


def run_command(app: typer.Typer, name: str, others: dict[type[Exception], Exit] = OTHERS) -> None:
    """Run a command line and end the process: every foreseen error is a sentence and its exit code.

    Args:
        app: the commands.
        name: of the program, as people call it.
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
            error.ctx.color = True  # else it drops escape sequences, which a person would look for in vain
        error.show(file=written)
        for line in written.getvalue().rstrip("\n").split("\n"):
            sys.stderr.write(printable(line) + "\n")
        code = Exit.USAGE
    except (typer.Abort, KeyboardInterrupt):
        terminal.say(f"{name}: stopped", style="yellow")
        code = Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever it is, it has an exit code of its own
        code = find_exit(error, others)
        if code is Exit.CRASHED:
            sys.excepthook(type(error), error, error.__traceback__)  # the service's logs may have taken it over
        else:
            terminal.say(f"{name}: {error}", style="bold red")
    sys.exit(int(code or Exit.DONE))
