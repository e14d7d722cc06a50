"""What the fuzzer begins with and what it once found, run through each target without it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.targets import TARGETS, check, make_seeds

CORPUS = Path(__file__).parent / "corpus"
LONG = "x" * 5000
REQUEST = json.loads(make_seeds("request")[0])
MANIFEST = json.loads(make_seeds("manifest")[0])
FOUND = {  # messages as long as what they name
    "request": [REQUEST | {"request_id": LONG[:4096], "faces": REQUEST["faces"] * 2}],
    "manifest": [
        {"schema_version": LONG},
        MANIFEST | {"files": {f"/{LONG}": each for each in MANIFEST["files"].values()}},
        MANIFEST | {"files": MANIFEST["files"] | {LONG: MANIFEST["files"]["golden.npz"]}},
    ],
}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_was_found_keep_the_laws(name: str) -> None:
    """Every seed, each of its beginnings of a power of two, and every kept input: no undocumented exception."""
    seeds = make_seeds(name)
    cut = [seed[: 1 << power] for seed in seeds for power in range(len(seed).bit_length())]
    found = [json.dumps(each).encode() for each in FOUND.get(name, [])]
    for data in [*seeds, *cut, *found, *(path.read_bytes() for path in sorted(CORPUS.glob(f"{name}/*")))]:
        check(name, data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_changed_seeds_keep_the_laws(name: str, data: st.DataObject) -> None:
    """A few changed places of a seed, and a part of it twice."""
    seed = bytearray(data.draw(st.sampled_from(make_seeds(name))))
    places = st.integers(0, len(seed) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        seed[place] = byte
    start, end = sorted((data.draw(places), data.draw(places)))
    check(name, bytes(seed[:end] + seed[start:]))


def test_an_exception_that_is_not_documented_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target catches what a parser documents, and nothing else."""
    monkeypatch.setattr(targets, "probe_image", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        check("image", b"")
