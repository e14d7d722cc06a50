"""The columns of the Parquet files, as the README lists them."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from scorer.archive.rows import ERRORS, RESULTS

_ROW = re.compile(r"\| (`\w+`(?:, `\w+`)*) \| ([\w ]+) \| .+ \|")


def read_columns(text: str, kind: str) -> list[tuple[str, str]]:
    """Return the names and types in the README's table of `kind`."""
    table = text.split(f"| {kind} | type | meaning |\n", 1)[1].split("\n\n", 1)[0]
    rows = filter(None, map(_ROW.fullmatch, table.splitlines()))
    return [(name, row[2]) for row in rows for name in re.findall(r"\w+", row[1])]


def name_type(kind: pa.DataType) -> str:
    """Return an Arrow type as the README names it."""
    if pa.types.is_dictionary(kind):
        return name_type(kind.value_type)
    if pa.types.is_list(kind):
        return f"list of {name_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "struct"
    return "timestamp" if pa.types.is_timestamp(kind) else str(kind)


@pytest.mark.parametrize(("kind", "schema"), [("results", RESULTS), ("errors", ERRORS)])
def test_the_readme_lists_every_column(root: Path, kind: str, schema: pa.Schema) -> None:
    """The README has each column of a file, in order, with its type and a meaning."""
    text = (root / "scorer" / "archive" / "README.md").read_text(encoding="utf-8")
    assert read_columns(text, kind) == [(field.name, name_type(field.type)) for field in schema]
