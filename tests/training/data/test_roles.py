"""Roles by table and by hash."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.photos import ROLES, Photo, Role
from training.data.roles import DEFAULT_SHARES, RoleRule, choose_role, read_roles, read_shares


def photo(source: str, role: Role | None = None) -> Photo:
    """Return a photograph without a picture."""
    return Photo("x.jpg", source, bytes, role=role)


@pytest.mark.parametrize("column", ["repo", "source"])
def test_a_table_gives_roles_to_folders(tmp_path: Path, column: str) -> None:
    """A slash in a source's name becomes the plus sign of its folder; other columns are ignored."""
    table = tmp_path / "roles.csv"
    table.write_text(f"{column},role,note\na/one,train,x\nb,test,\n")
    assert read_roles(table) == {"a+one": "train", "b": "test"}


def test_unknown_role_is_refused(tmp_path: Path) -> None:
    """The error names the source, its role and the possible roles."""
    table = tmp_path / "roles.csv"
    table.write_text("repo,role,note\na/one,train,\nb/two,validation,\n")
    with pytest.raises(ValueError, match=r"b\+two has role 'validation'; use one of train, fit, calibrate, test"):
        read_roles(table)


def test_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    """The error names the existing and the required columns."""
    table = tmp_path / "roles.csv"
    table.write_text("photographer,use\na,train\n")
    with pytest.raises(ValueError, match="the columns are photographer, use; it must have `source` and `role`"):
        read_roles(table)


@given(st.text())
def test_a_source_always_gets_the_same_role(source: str) -> None:
    """The role depends on the name only, so that every machine and every run assigns the same."""
    role = choose_role(source, DEFAULT_SHARES)
    assert role in ROLES
    assert choose_role(source, dict(reversed(DEFAULT_SHARES.items()))) == role


def test_shares_are_kept() -> None:
    """Of many sources each role gets about its share, and a role with share zero gets none."""
    roles = [choose_role(f"source {number}", {"train": 0.5, "fit": 0.3, "test": 0.2}) for number in range(4000)]
    for role, share in (("train", 0.5), ("fit", 0.3), ("calibrate", 0.0), ("test", 0.2)):
        assert roles.count(role) / len(roles) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("text", ["train=0.5", "train=1,tests=0", "train=nan,fit=1", "train", "train=2,fit=-1", ""])
def test_shares_that_do_not_add_up_are_refused(text: str) -> None:
    """A wrong name, a number that is no share, or a sum other than 1 is refused."""
    with pytest.raises(ValueError, match="share"):
        read_shares(text)


def test_a_table_precedes_the_input_and_the_input_precedes_the_shares() -> None:
    """A source without a role is left out if there is a table; otherwise the shares decide."""
    with_table = RoleRule(table={"a": "test"})
    assert with_table.assign(photo("a", "fit")) == "test"
    assert with_table.assign(photo("b", "fit")) == "fit"
    assert with_table.assign(photo("c")) is None
    assert RoleRule(shares={"calibrate": 1.0}).assign(photo("a")) == "calibrate"
    assert RoleRule(shares={"calibrate": 1.0}).assign(photo("a", "fit")) == "fit"


def test_no_source_has_two_roles() -> None:
    """Two inputs with two roles for one photographer are an error that names both roles."""
    rule = RoleRule(shares={"train": 1.0})
    rule.assign(photo("ann"))
    with pytest.raises(ValueError, match="'ann' would have two roles, train and test"):
        rule.assign(photo("ann", "test"))
