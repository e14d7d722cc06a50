"""Printed text never controls a terminal, whatever it contains."""

import io
import json
import os
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from scorer.commands.terminal import Terminal
from scorer.observe.printable import count_noun, print_json, printable, printable_json, printable_value

TEXT = st.text(
    st.characters() | st.sampled_from("\x1b\x9b\r\n\t\x7f\u202e\u2066\u200b\u2028\xad\ue000\udcff\ud800[]\\:")
)
NAMES = [
    "a\x1b[2J\x1b]0;x\x07.png",
    "cr\rOVER",
    "c\x9b31m",
    "\u202egpj.exe",
    "[/x]",
    "[red]m",
    ":smile:",
    "a\nb",
    "é😀.jpg",
]


def acts(text: str) -> bool:
    """Return whether a character of `text` is not printable."""
    return any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for c in text)


@given(TEXT)
def test_nothing_but_what_is_seen_is_printed(text: str) -> None:
    """No control, format, surrogate or private character is left; twice changes nothing; plain text stays."""
    shown = printable(text)
    assert not acts(shown)
    assert printable(shown) == shown
    assert text.isprintable() == (shown == text)


@given(st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & set(b"\0/\\'")))
def test_a_file_can_be_found_by_what_is_printed(name: bytes) -> None:
    """A shell's $'...' of the shown text is the name of the file, with any bytes."""
    shown = printable(os.fsdecode(name))
    run = subprocess.run(
        ["bash", "-c", f"printf %s $'{shown}'"],  # noqa: S607 - where the developer has it
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    assert run.stdout == name


@given(st.recursive(TEXT | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5))
def test_json_stays_the_same_json(value: object) -> None:
    """Escapes occur within strings only, with and without characters outside ASCII."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    assert json.loads(printable_json(text)) == json.loads(printable_json(text, ascii_only=True)) == value
    assert not acts(printable_json(text).replace("\n", ""))
    assert printable_json(text, ascii_only=True).isascii()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso-8859-1"])
def test_json_is_json_on_any_terminal(encoding: str) -> None:
    """What the terminal's encoding lacks is escaped."""
    output = io.BytesIO()
    terminal = io.TextIOWrapper(output, encoding)
    print_json('{"a": "é😀\x7f"}', terminal)
    assert json.loads(output.getvalue().decode(encoding)) == {"a": "é😀\x7f"}


@given(TEXT)
def test_a_terminal_prints_text_as_data(text: str) -> None:
    """In sentences, cells, titles and texts of the caller's own, a name neither acts nor is taken for markup."""
    output = io.StringIO()
    terminal = Terminal(file=output, width=400)
    terminal.say(text)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    terminal.print(table)
    terminal.print(Text(text))
    assert not acts(output.getvalue().replace("\n", ""))
    assert output.getvalue().startswith(f"{printable(text)}\n")


def test_a_page_shows_text_and_keeps_its_markup() -> None:
    """What a template is given is escaped for the eye and for HTML; a drawing stays a drawing."""
    page = Environment(autoescape=True, finalize=printable_value).from_string("{{ name }}|{{ drawing }}|{{ number }}")
    shown = page.render(name="<b>\u202e\udcff", drawing=Markup("<svg>\n</svg>"), number=3)
    assert shown == "&lt;b&gt;\\u202e\\xff|<svg>\n</svg>|3"


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_readable(name: str) -> None:
    """Markup and emoji codes are printed unchanged, also on a terminal with colours; widths of columns are right."""
    output = io.StringIO()
    terminal = Terminal(file=output, width=80, force_terminal=True)
    table = Table("name", "decision", show_edge=False)
    table.add_row(name, "pass")
    terminal.print(table)
    row = output.getvalue().splitlines()[-1]
    assert printable(name) in row
    assert row.rstrip().endswith("pass")


def test_a_terminal_that_lacks_a_character_shows_its_escape(tmp_path: Path) -> None:
    """An encoding without emoji ends nothing, and the table keeps its width."""
    path = tmp_path / "shown"
    with path.open("w", encoding="ascii", errors="strict") as file:
        table = Table("name", "decision")
        table.add_row("😀.jpg", "pass")
        Terminal(file=file, width=60).print(table)
    lines = path.read_text(encoding="ascii").rstrip().splitlines()
    assert "\\U0001f600.jpg" in path.read_text(encoding="ascii")
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, "image"), "0 images"),
        ((1, "image"), "1 image"),
        ((2000, "image"), "2,000 images"),
        ((2, "link to a folder", "links to folders"), "2 links to folders"),
    ],
)
def test_a_number_has_its_noun(arguments: tuple[int, str], text: str) -> None:
    """The noun is singular for 1 only, and large numbers have separators."""
    assert count_noun(*arguments) == text
