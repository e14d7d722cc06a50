"""The settings file in the READMEs of the services is complete and correct."""

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from scorer.settings import Settings


def list_names(toml: str) -> set[str]:
    """Return the settings in a TOML text, commented ones too, with their sections."""
    names, section = set(), ""
    for line in toml.splitlines():
        if match := re.match(r"\[(\w+)\]", line):
            section = f"{match[1]}."
        elif match := re.match(r"(?:# )?(\w+) = ", line):
            names.add(section + match[1])
    return names


def list_defaults(settings: object, section: str = "") -> dict[str, Any]:
    """Return the value of each setting by its name."""
    dumped = TypeAdapter(type(settings)).dump_python(settings, mode="json")
    found: dict[str, Any] = {}
    for name, value in dumped.items():
        if isinstance(value, dict) and not section:
            found |= list_defaults(getattr(settings, name), f"{name}.")
        elif name != "schema_version":
            found[section + name] = value
    return found


def test_the_settings_file_has_every_default(root: Path) -> None:
    """Every setting is there with its default; those without one are commented."""
    readmes = [(root / "scorer" / name / "README.md").read_text("utf-8") for name in ("stream", "api")]
    text = "".join(block for readme in readmes for block in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL))
    settings = Settings(bundle=Path("model_repository"))
    assert isinstance(settings, BaseModel)
    defaults = list_defaults(settings)
    assert list_names(text) == defaults.keys()
    parsed = tomllib.loads(text)
    values = {name: value for name, value in parsed.items() if not isinstance(value, dict)}
    for section, keys in parsed.items():
        values |= {f"{section}.{name}": value for name, value in keys.items()} if isinstance(keys, dict) else {}
    assert values == {name: value for name, value in defaults.items() if value is not None and name != "threads"}
