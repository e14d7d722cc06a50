"""One table of exit codes, for the help texts and scorer/README.md."""

import re
from pathlib import Path

from typer.testing import CliRunner

from scorer import errors
from scorer.commands import command_line, main
from scorer.errors import Exit, UnlensedError, describe_exits
from training import cli as training_cli


def test_help_texts_state_every_code() -> None:
    """Both commands end their help with the table, on lines of at most 80 columns."""
    for app in (main.app, training_cli.app):
        shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
        for code in Exit:
            assert re.search(rf"^ +{code:d}  {re.escape(code.meaning[:30])}", shown, re.MULTILINE)
        assert max(map(len, shown.splitlines())) <= 80
    assert {int(code) for code in re.findall(r"^ *(\d+)  ", describe_exits(), re.MULTILINE)} == set(Exit)


def list_errors(kind: type[UnlensedError] = UnlensedError) -> list[type[UnlensedError]]:
    """Return every class below `kind`."""
    return [each for child in kind.__subclasses__() for each in (child, *list_errors(child))]


def test_every_foreseen_error_has_a_code_that_the_docstring_states() -> None:
    """The tree in the module's docstring has each class of the module with its exit code, and no other."""
    own = {error.__name__: int(error.exit_code) for error in list_errors() if error.__module__ == errors.__name__}
    drawn = re.findall(r"── (\w+) +(\d+)  ", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == own
    assert {*command_line.OTHERS.values(), *training_cli.EXITS_BY_ERROR.values()} <= set(Exit)


def test_readme_states_the_table(root: Path) -> None:
    """Each code that the README lists has the table's meaning, and it leaves out none but the one of Ctrl-C."""
    text = (root / "scorer" / "README.md").read_text("utf-8")
    listed = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)}
    assert listed.items() <= {int(code): code.meaning for code in Exit}.items()
    assert set(Exit) - listed.keys() <= {Exit.INTERRUPTED}
