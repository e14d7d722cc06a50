"""How a command ends: one sentence, one exit code, and nothing that acts on the terminal."""

import sys
from collections.abc import Callable, Iterator

import pytest
import typer

from scorer.commands.command_line import CommandGroup, run_command
from scorer.errors import Exit, MissingExtra

HOSTILE = "\x1b[2J\u202e[/x]\nsecond line"


@pytest.fixture(autouse=True)
def _same_hook() -> Iterator[None]:
    """Leave the interpreter's hook as it was."""
    before = sys.excepthook
    yield
    sys.excepthook = before


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command that raises an error; returns the exit code and the output."""

    def end_with(error: BaseException) -> tuple[int, str]:
        app = typer.Typer(cls=CommandGroup, rich_markup_mode=None)

        @app.command()
        def serve() -> None:
            raise error

        @app.command()
        def other() -> None:
            """Be another command, so that there is a group."""

        monkeypatch.setattr("sys.argv", ["program", "serve"])
        with pytest.raises(SystemExit) as ended:
            run_command(app, "program", {MissingExtra: Exit.BAD_CONFIGURATION, OSError: Exit.TRY_AGAIN})
        said = capsys.readouterr().err
        assert "".join(said.splitlines()).isprintable()
        return int(ended.value.code or 0), said

    return end_with


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(HOSTILE), 75),
        (typer.BadParameter(HOSTILE), 2),
        (ModuleNotFoundError(HOSTILE, name="kafka.errors"), 78),
        (typer.Abort(), 130),
    ],
)
def test_a_foreseen_end_is_a_sentence(end: Callable[..., tuple[int, str]], error: BaseException, code: int) -> None:
    """Its text is shown escaped, and no traceback is."""
    found, said = end(error)
    assert found == code
    assert "Traceback" not in said
    if code in {2, 75}:
        assert "\\x1b[2J\\u202e[/x]" in said


def test_ctrl_c_is_told_apart(end: Callable[..., tuple[int, str]]) -> None:
    """It has the exit code that shells give it."""
    assert end(KeyboardInterrupt()) == (130, "")


@pytest.mark.parametrize("error", [RuntimeError(HOSTILE), ModuleNotFoundError(HOSTILE, name="scorer.gone")])
def test_a_defect_has_its_traceback(end: Callable[..., tuple[int, str]], error: Exception) -> None:
    """An unexpected error is 70, with its traceback, escaped."""
    found, said = end(error)
    assert found == 70
    assert "Traceback" in said
    assert "\\x1b[2J\\u202e[/x]" in said
    assert "\nsecond line\n" in said
