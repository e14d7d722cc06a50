"""Roles by table and by hash."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.data.inputs import Inputs, list_inputs
from training.data.minimums import list_needs
from training.data.photos import ROLES, Photo, Role
from training.data.roles import DEFAULT_SHARES, Need, RoleRule, hash_position, read_roles, read_shares, split_sources
from training.recipes import starter

Listed = list[tuple[str, Role | None]]


@dataclass(slots=True)
class NamedPhotos:
    """Photographs without a picture: their sources, and the roles that the input proposes."""

    listed: Listed
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the photographs."""
        for number, (source, role) in enumerate(self.listed):
            yield Photo(f"{number}.jpg", source, bytes, role=role)

    def describe(self) -> str:
        """Return a name."""
        return "named photographs"


def assign(rule: RoleRule, *sources: str | tuple[str, Role]) -> Inputs:
    """Return the inputs with one photograph of each source."""
    return list_inputs([NamedPhotos([each if isinstance(each, tuple) else (each, None) for each in sources])], rule)


def write_table(path: Path, text: str) -> Path:
    """Write a roles table."""
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


@pytest.mark.parametrize("column", ["repo", "source", " source ", "\ufeffsource"])
def test_a_table_gives_roles_to_sources(tmp_path: Path, column: str) -> None:
    """Names keep their spaces; other columns, and spaces around a role, are ignored."""
    table = write_table(tmp_path / "roles.csv", f'{column},role,note\na/one,train,x\n b ,  test ,\n"c, d",fit,\n')
    assert read_roles(table) == {"a/one": "train", " b ": "test", "c, d": "fit"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("repo,role\na/one,train\nb/two,validation\n", "'b/two' has role 'validation'; use one of train, fit"),
        ("repo,role\na\n", "'a' has role ''; use one of"),
        ("photographer,use\na,train\n", "the columns are photographer, use; it must have `source` and `role`"),
        ("", "the columns are missing"),
        ("source,role\na,train\na,fit\n", "'a' has two roles, train and fit"),
        (f"source,role\n{'a' * 200_000},train\n", "roles.csv is no CSV table: field larger"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, error: str) -> None:
    """The error names the table, the entry and what is possible."""
    with pytest.raises(ValueError, match=error):
        RoleRule.read(write_table(tmp_path / "roles.csv", text), "").assign({"a": 1}, {}, {})


@given(st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.sampled_from(ROLES)))
def test_every_name_can_be_an_entry(roles: dict[str, Role]) -> None:
    """Any name of a source has the role of its entry."""
    assume(roles)
    assert dict(assign(RoleRule(table=roles), *roles).roles) == roles


@pytest.mark.parametrize(
    ("source", "entry"),
    [
        ("ann+2019", "ann/2019"),
        ("ann/2019", "ann+2019"),
        ("Jose\u0301+a", "Jos\u00e9/a"),
        ("Jos\u00e9", "Jose\u0301"),
        ("\udce9t\udce9", "\udce9t\udce9"),
    ],
)
def test_an_entry_names_a_folder_too(tmp_path: Path, source: str, entry: str) -> None:
    """`/` also means `+`; accents can be composed or not; any bytes are a name."""
    rule = RoleRule.read(write_table(tmp_path / "roles.csv", f"repo,role\n{entry},test\n"), "")
    assert dict(assign(rule, source, "another").roles) == {source: "test"}


def test_the_entry_of_the_exact_name_precedes() -> None:
    """`a/b` and `a+b` can be two sources; a name that two entries mean is an error."""
    rule = RoleRule(table={"a/b": "train", "a+b": "test"})
    assert dict(assign(rule, "a/b", "a+b").roles) == {"a/b": "train", "a+b": "test"}
    with pytest.raises(ValueError, match=r"gives source 'a\+b\+c' two roles, by its entries 'a\+b/c', 'a/b\+c'"):
        assign(RoleRule(table={"a/b+c": "train", "a+b/c": "test"}), "a+b+c")


def test_entries_without_a_source_are_listed() -> None:
    """The error has the entries, their number, and the sources that no entry names."""
    table: dict[str, Role] = dict.fromkeys([f"gone {number}" for number in range(7)], "fit") | {"ann": "train"}
    with pytest.raises(ValueError, match="entries of the roles table") as raised:
        assign(RoleRule(table=table), "ann", "an n", "gone7")
    assert str(raised.value) == (
        "7 of 8 entries of the roles table name no source of the inputs: 'gone 0', 'gone 1', 'gone 2', 'gone 3', "
        "'gone 4' and 2 more. The inputs have 3 sources, of these without a role: 'an n', 'gone7'. "
        "Correct the names, delete their rows, or add their photographs"
    )


def test_a_table_is_for_all_inputs_together() -> None:
    """An entry can name a source of any input; a source without an entry is left out and counted."""
    listed = [NamedPhotos([("ann", None), ("bob", None)]), NamedPhotos([("club", None), ("bob", None)])]
    inputs = list_inputs(listed, RoleRule(table={"ann": "train", "club": "fit"}))
    assert dict(inputs.roles) == {"ann": "train", "club": "fit"}
    assert inputs.without_role == {"bob": 2}
    assert [photo.source for photo, _ in inputs.stream()] == ["ann", "club"]
    with pytest.raises(FileNotFoundError, match="no photograph with a role"):
        list_inputs([NamedPhotos([])], RoleRule())


SHARES = st.sampled_from([DEFAULT_SHARES, {"train": 0.01, "fit": 0.01, "test": 0.98}, {"train": 1.0}])
SIZES = st.dictionaries(st.text(max_size=3), st.integers(1, 100), min_size=1, max_size=30)


@given(SIZES, SHARES)
def test_the_split_does_not_depend_on_the_order(sizes: dict[str, int], shares: dict[Role, float]) -> None:
    """Every machine and every order of the sources gives the same roles."""
    roles = split_sources(sizes, shares, list_needs(starter()), {})
    again = split_sources(dict(reversed(sizes.items())), dict(reversed(shares.items())), list_needs(starter()), {})
    assert roles == again
    assert set(roles.values()) <= shares.keys()


@given(SIZES, SHARES)
def test_the_split_fills_every_role(sizes: dict[str, int], shares: dict[Role, float]) -> None:
    """With enough sources no role is empty, and each has what the recipe needs."""
    needs = list_needs(starter())
    counts = Counter(split_sources(sizes, shares, needs, {}).values())
    if len(sizes) >= len(shares):
        assert counts.keys() == shares.keys()
    if len(sizes) >= sum(needs[role].sources for role in shares):
        assert all(counts[role] >= needs[role].sources for role in shares)


@given(st.integers(6, 40))
def test_the_split_gives_each_role_its_photographs(count: int) -> None:
    """Of equal sources that are enough together, each role has the photographs that it needs."""
    needs: dict[Role, Need] = {"train": Need(1, 32), "fit": Need(2, 8), "calibrate": Need(1, 72), "test": Need(2, 1)}
    sizes = {f"source {number}": 72 for number in range(count)}
    roles = split_sources(sizes, DEFAULT_SHARES, needs, {})
    for role, need in needs.items():
        assert sum(size for name, size in sizes.items() if roles[name] == role) >= need.photographs


def test_a_role_that_cannot_have_enough_takes_nothing() -> None:
    """Too few photographs for a calibration stay where the hash put them."""
    sizes = {f"source {number}": 7 for number in range(10)}
    needs: dict[Role, Need] = {"calibrate": Need(1, 71)}
    assert split_sources(sizes, DEFAULT_SHARES, needs, {}) == split_sources(sizes, DEFAULT_SHARES, {}, {})


@given(st.integers())
def test_only_needed_sources_change_their_hashed_role(seed: int) -> None:
    """A split in which the hash fills every role is that of the hash."""
    ends = (("train", 0.7), ("fit", 0.8), ("calibrate", 0.9), ("test", 1.0))
    sizes = {f"{seed} {number}": 1 for number in range(80)}
    hashed = {name: next(role for role, end in ends if hash_position(name) < end) for name in sizes}
    assume(len(set(hashed.values())) == len(ends))
    assert split_sources(sizes, DEFAULT_SHARES, {}, {}) == hashed


def test_shares_are_kept() -> None:
    """Of many sources each role gets about its share, and a role with share zero gets none."""
    sizes = dict.fromkeys([f"source {number}" for number in range(4000)], 1)
    roles = [*split_sources(sizes, {"train": 0.5, "fit": 0.3, "test": 0.2}, {}, {}).values()]
    for role, share in (("train", 0.5), ("fit", 0.3), ("calibrate", 0.0), ("test", 0.2)):
        assert roles.count(role) / len(roles) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("text", ["train=0.5", "train=1,tests=0", "train=nan,fit=1", "train", "train=2,fit=-1", ""])
def test_shares_that_do_not_add_up_are_refused(text: str) -> None:
    """A wrong name, a number that is no share, or a sum other than 1 is refused."""
    with pytest.raises(ValueError, match="share"):
        read_shares(text)


def test_a_table_precedes_the_input_and_the_input_precedes_the_shares() -> None:
    """A source without a role is left out if there is a table; otherwise the shares decide."""
    with_table = assign(RoleRule(table={"a": "test"}), ("a", "fit"), ("b", "fit"), "c")
    assert dict(with_table.roles) == {"a": "test", "b": "fit"}
    assert dict(assign(RoleRule(shares={"calibrate": 1.0}), "a", ("b", "fit")).roles) == {"a": "calibrate", "b": "fit"}


def test_no_source_has_two_roles() -> None:
    """Two inputs that propose two roles for one source are an error that names both."""
    with pytest.raises(ValueError, match="'ann' would have two roles, fit and test"):
        assign(RoleRule(shares={"train": 1.0}), ("ann", "fit"), ("ann", "test"))
