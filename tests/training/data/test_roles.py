"""Roles by table and by hash."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.photos import ROLES, Photo, Role
from training.data.roles import DEFAULT_SHARES, RoleRule, draw_role, read_roles, read_shares


def photo(source: str, role: Role | None = None) -> Photo:
    """Return a photograph without a picture."""
    return Photo("x.jpg", source, bytes, role=role)


@pytest.mark.parametrize("column", ["repo", "source"])
def test_a_table_gives_roles_to_folders(tmp_path: Path, column: str) -> None:
    """A slash in a source's name is the plus sign of its folder; other columns do not matter."""
    table = tmp_path / "roles.csv"
    table.write_text(f"{column},role,note\na/one,train,x\nb,test,\n")
    assert read_roles(table) == {"a+one": "train", "b": "test"}


def test_unknown_role_is_refused(tmp_path: Path) -> None:
    """The sentence names the source, the role and what would do."""
    table = tmp_path / "roles.csv"
    table.write_text("repo,role,note\na/one,train,\nb/two,validation,\n")
    with pytest.raises(ValueError, match=r"b\+two has role 'validation'; use one of train, fit, calibrate, test"):
        read_roles(table)


def test_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    """The sentence names the columns that are there and those that must be."""
    table = tmp_path / "roles.csv"
    table.write_text("photographer,use\na,train\n")
    with pytest.raises(ValueError, match="the columns are photographer, use; it must have `source` and `role`"):
        read_roles(table)


@given(st.text())
def test_a_source_always_gets_the_same_role(source: str) -> None:
    """The role follows from the name alone, so that another machine or a later run gives the same."""
    role = draw_role(source, DEFAULT_SHARES)
    assert role in ROLES
    assert draw_role(source, dict(reversed(DEFAULT_SHARES.items()))) == role


def test_shares_are_kept() -> None:
    """Of many sources each role gets about its share, and a role of share zero none."""
    drawn = [draw_role(f"source {number}", {"train": 0.5, "fit": 0.3, "test": 0.2}) for number in range(4000)]
    for role, share in (("train", 0.5), ("fit", 0.3), ("calibrate", 0.0), ("test", 0.2)):
        assert drawn.count(role) / len(drawn) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("text", ["train=0.5", "train=1,tests=0", "train=nan,fit=1", "train", "train=2,fit=-1", ""])
def test_shares_that_do_not_add_up_are_refused(text: str) -> None:
    """A wrong name, a number that is no share, or a sum other than one."""
    with pytest.raises(ValueError, match="share"):
        read_shares(text)


def test_a_table_wins_over_a_layout_and_a_layout_over_the_shares() -> None:
    """Sources that neither names are left out where there is a table, and drawn where there is none."""
    with_table = RoleRule(table={"a": "test"})
    assert with_table.assign(photo("a", "fit")) == "test"
    assert with_table.assign(photo("b", "fit")) == "fit"
    assert with_table.assign(photo("c")) is None
    assert RoleRule(shares={"calibrate": 1.0}).assign(photo("a")) == "calibrate"
    assert RoleRule(shares={"calibrate": 1.0}).assign(photo("a", "fit")) == "fit"


def test_no_source_serves_two_roles() -> None:
    """Two inputs that would use one photographer for two roles end in a sentence that names both."""
    rule = RoleRule(shares={"train": 1.0})
    rule.assign(photo("ann"))
    with pytest.raises(ValueError, match="'ann' would serve both train and test"):
        rule.assign(photo("ann", "test"))
