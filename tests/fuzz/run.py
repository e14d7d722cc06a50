"""Fuzz one target with atheris: `python tests/fuzz/run.py TARGET [options and folders of libFuzzer]`; see `make fuzz`.

A failing input is written to the working folder. Moved to tests/fuzz/corpus/TARGET, it is part of the ordinary tests.
"""

import copy
import json
import random
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ingest", "scorer"]):
    from ingest.formats import png
    from tests.fuzz.targets import TARGETS, check, make_seeds

# Values of another type, out of range, or long.
VALUES: tuple[object, ...] = (None, True, -1, 0, 1e-300, 1e300, 10**30, "", "\ud800", "x" * 5000, [], {}, [[]])


def change_json(data: bytes, max_size: int, seed: int) -> bytes:
    """Return JSON with one value changed or one name added; invalid JSON and a third of the inputs change as bytes."""
    dice = random.Random(seed)  # noqa: S311 - libFuzzer's seed, so that a run can be repeated
    try:
        whole = json.loads(data) if dice.randrange(3) else None
    except (ValueError, RecursionError):
        whole = None
    items: list[tuple[dict[str, object] | list[object], str | int]] = []
    unvisited = [whole]
    while unvisited:
        node = unvisited.pop()
        if isinstance(node, dict | list):
            names = list(node) if isinstance(node, dict) else list(range(len(node)))
            items += [(node, name) for name in names]
            unvisited += [node[name] for name in names]
    if not items:
        return bytes(atheris.Mutate(data, max_size))
    node, name = dice.choice(items)
    other, taken = dice.choice(items)
    value = copy.deepcopy(dice.choice((*VALUES, other[taken])))  # type: ignore[index]
    if isinstance(node, dict) and not dice.randrange(3):
        name = dice.choice(("unknown", *[str(each) for _, each in items]))
    node[name] = value  # type: ignore[index]
    return json.dumps(whole).encode()[:max_size]


def change_image(data: bytes, max_size: int, seed: int) -> bytes:
    """Return changed bytes; half of the PNGs get right checksums, since all would be refused without them."""
    changed = bytes(atheris.Mutate(data, max_size))
    if not changed.startswith(png.MAGIC) or seed % 2:
        return changed
    parts, position = [png.MAGIC], len(png.MAGIC)
    while position + 12 <= len(changed):
        end = position + 8 + int.from_bytes(changed[position : position + 4], "big")
        chunk = changed[position:end]
        parts += [chunk, zlib.crc32(chunk[4:]).to_bytes(4, "big")]
        position = end + 4
    return b"".join((*parts, changed[position:]))[:max_size]


CHANGES: dict[str, Callable[[bytes, int, int], bytes]] = {
    "image": change_image,
    "request": change_json,
    "manifest": change_json,
}


def main() -> None:
    """Fuzz until a limit of libFuzzer is reached."""
    if len(sys.argv) == 1 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: run.py {'|'.join(TARGETS)} [options and folders of libFuzzer]")
    name, *options = sys.argv[1:]
    change = {"custom_mutator": CHANGES[name]} if name in CHANGES else {}
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(make_seeds(name)):
            Path(seeds, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, seeds], lambda data: check(name, data), **change)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
