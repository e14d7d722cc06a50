"""The seeds of the fuzzer and the inputs that it once found, run through each target without it."""

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
FOUND = {  # inputs whose error messages were as long as the names in them
    "request": [REQUEST | {"request_id": LONG[:4096], "faces": REQUEST["faces"] * 2}],
    "manifest": [
        {"schema_version": LONG},
        MANIFEST | {"files": {f"/{LONG}": each for each in MANIFEST["files"].values()}},
        MANIFEST | {"files": MANIFEST["files"] | {LONG: MANIFEST["files"]["golden.npz"]}},
    ],
}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_found_inputs_keep_the_laws(name: str) -> None:
    """Every seed, its first bytes up to each power of two, and every kept input raise no undocumented exception."""
    seeds = make_seeds(name)
    cut = [seed[: 1 << power] for seed in seeds for power in range(len(seed).bit_length())]
    found = [json.dumps(each).encode() for each in FOUND.get(name, [])]
    for data in [*seeds, *cut, *found, *(path.read_bytes() for path in sorted(CORPUS.glob(f"{name}/*")))]:
        check(name, data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_changed_seeds_keep_the_laws(name: str, data: st.DataObject) -> None:
    """A seed with a few changed bytes and a repeated part keeps the laws."""
    seed = bytearray(data.draw(st.sampled_from(make_seeds(name))))
    offsets = st.integers(0, len(seed) - 1)
    for offset, byte in data.draw(st.lists(st.tuples(offsets, st.integers(0, 255)), max_size=4)):
        seed[offset] = byte
    start, end = sorted((data.draw(offsets), data.draw(offsets)))
    check(name, bytes(seed[:end] + seed[start:]))


def test_an_undocumented_exception_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target catches only the documented exceptions of a parser."""
    monkeypatch.setattr(targets, "probe_image", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        check("image", b"")
