"""Policies per tenant and stream: which one applies, and that an invalid file never replaces a valid one."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.bundle.bundle import Bundle
from scorer.decide import CalibrationSize, Policy
from scorer.errors import PolicyError
from scorer.messages import ImageSource, ScoreRequest
from scorer.policies import PolicyBook, PolicyNotFound, PolicyWatcher, UnknownPolicy, UnknownTenant, read_policies

GOOD = """
default_policy = "normal"
[policies.normal]
version = "3"
[policies.lenient]
version = "1"
flag_false_alarm_rate = 0.02
[tenants.acme]
policy = "lenient"
streams.avatars = "normal"
"""
NO_DEFAULT = GOOD.replace('default_policy = "normal"', "")
CALIBRATION = CalibrationSize(400, 400)


def ask(tenant: str | None = None, stream: str | None = None, policy_id: str | None = None) -> ScoreRequest:
    """Return a request of a tenant."""
    return ScoreRequest(
        request_id="a",
        content_id="a",
        image=ImageSource(uri="file:///a"),
        tenant=tenant,
        stream=stream,
        policy_id=policy_id,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good file of policies."""
    path = tmp_path / "policies.toml"
    path.write_text(GOOD)
    return path


def replace(file: Path, text: str) -> None:
    """Exchange the file as a whole."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


@pytest.mark.parametrize(
    ("request_", "policy"),
    [
        (ask(), "normal"),
        (ask("stranger"), "normal"),
        (ask("stranger", "avatars"), "normal"),
        (ask("acme"), "lenient"),
        (ask("acme", "comments"), "lenient"),
        (ask("acme", "avatars"), "normal"),
        (ask("acme", "avatars", "lenient"), "lenient"),
        (ask("stranger", policy_id="lenient"), "lenient"),
    ],
)
def test_the_most_specific_choice_wins(file: Path, request_: ScoreRequest, policy: str) -> None:
    """The named policy comes before the stream's, the stream's before the tenant's, the tenant's before the default."""
    assert read_policies(file, CALIBRATION).choose(request_).policy_id == policy


def test_a_rate_that_a_file_does_not_set_is_one_the_calibration_supports(file: Path) -> None:
    """A policy without a flag rate gets the lowest that 78 photographs support; without a file so does everybody."""
    small = CalibrationSize(faces=103, photographs=78)
    assert read_policies(file, small).policies["normal"].flag_false_alarm_rate == 0.05
    assert PolicyWatcher(None, small).book.choose(ask()).flag_false_alarm_rate == 0.05
    with pytest.raises(PolicyError, match=r"set flag_false_alarm_rate to 0\.05 or more"):
        PolicyWatcher(None, small, Policy(flag_false_alarm_rate=0.005))


@pytest.mark.parametrize("request_", [ask(), ask("stranger"), ask("stranger", policy_id="normal")])
def test_unlisted_tenant_without_default_is_refused(file: Path, request_: ScoreRequest) -> None:
    """Without a default, a tenant that is not listed gets nothing, even when it names a policy."""
    file.write_text(NO_DEFAULT)
    book = read_policies(file, CALIBRATION)
    with pytest.raises(UnknownTenant) as error:
        book.choose(request_)
    assert error.value.code == "unknown_tenant"
    assert isinstance(error.value, PolicyNotFound)
    assert book.choose(ask("acme")).policy_id == "lenient"


def test_unknown_policy_is_refused_and_long_names_are_cut(file: Path) -> None:
    """A policy that does not exist is refused by name, and a long name does not fill the message."""
    with pytest.raises(UnknownPolicy, match="normal") as error:
        read_policies(file, CALIBRATION).choose(ask("acme", policy_id="x" * 4096))
    assert error.value.code == "unknown_policy"
    assert len(str(error.value)) < 200


@given(st.none() | st.text(max_size=9), st.none() | st.text(max_size=9))
def test_without_a_file_one_policy_judges_everybody(tenant: str | None, stream: str | None) -> None:
    """A book of one policy accepts every tenant and knows that policy's name only."""
    policy = Policy(policy_id="only", version="9")
    watcher = PolicyWatcher(None, CALIBRATION, policy)
    assert watcher.book == PolicyBook.from_policy(policy)
    assert watcher.book.choose(ask(tenant, stream)) is policy
    assert watcher.book.choose(ask(tenant, stream, "only")) is policy
    with pytest.raises(UnknownPolicy):
        watcher.book.choose(ask(tenant, stream, "other"))
    assert not watcher.reload_if_changed()


BAD = {
    "not TOML": (GOOD + "[", "not TOML"),
    "not text": ("\udcff", "not TOML"),
    "unknown key": (GOOD + "[extra]\n", "extra"),
    "unknown key of a policy": (GOOD.replace('"3"', '"3"\nrate = 1'), "policies.normal.rate"),
    "unknown key of a tenant": (GOOD + "\ndefault = 1\n", "tenants.acme.default"),
    "no version": (GOOD.replace('version = "3"', ""), "policies.normal.version"),
    "version is no text": (GOOD.replace('"3"', "3"), "policies.normal.version"),
    "id twice": (GOOD.replace('"3"', '"3"\npolicy_id = "x"'), "policies.normal.policy_id"),
    "rate is no number": (GOOD.replace("0.02", "'low'"), "policies.lenient.flag_false_alarm_rate"),
    "rate over review's": (GOOD.replace("0.02", "0.9"), "policies.lenient"),
    "rate too fine": (GOOD.replace("0.02", "0.0001"), "policies.lenient.flag_false_alarm_rate"),
    "tenant's policy": (GOOD.replace('policy = "lenient"', 'policy = "gone"'), "tenants.acme.policy names 'gone'"),
    "stream's policy": (GOOD.replace('avatars = "normal"', 'avatars = "gone"'), "tenants.acme.streams.avatars"),
    "default": (GOOD.replace('default_policy = "normal"', 'default_policy = "gone"'), "default_policy names 'gone'"),
    "refuses everybody": ('[policies.a]\nversion = "1"\n', "default_policy"),
    "nothing": ("", "policies"),
    "huge": (GOOD + "#" * (1 << 20), "larger"),
}


@pytest.mark.parametrize(("text", "key"), BAD.values(), ids=BAD.keys())
def test_bad_file_is_refused_by_file_and_key(file: Path, text: str, key: str) -> None:
    """Each mistake is an error that names the file and the key."""
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(PolicyError, match=key) as error:
        read_policies(file, CALIBRATION)
    assert str(file) in str(error.value)


def test_missing_file_is_refused_at_the_start(tmp_path: Path) -> None:
    """A service does not start on a file that is not there."""
    with pytest.raises(PolicyError, match=r"gone\.toml"):
        PolicyWatcher(tmp_path / "gone.toml", CALIBRATION)


def test_replaced_file_counts_at_once(file: Path) -> None:
    """A file that is renamed into place is in force after one look, and the next look changes nothing."""
    watcher = PolicyWatcher(file, CALIBRATION)
    assert not watcher.reload_if_changed()
    replace(file, GOOD.replace('"3"', '"4"'))
    assert watcher.reload_if_changed()
    assert watcher.book.choose(ask()).version == "4"
    assert not watcher.reload_if_changed()


def test_exchanged_link_counts_at_once(tmp_path: Path) -> None:
    """The way in which Kubernetes exchanges a ConfigMap: the file is a link through a folder's link."""
    for version in ("3", "4"):
        folder = tmp_path / f"..data{version}"
        folder.mkdir()
        (folder / "policies.toml").write_text(GOOD.replace('"3"', f'"{version}"'))
    data, file = tmp_path / "..data", tmp_path / "policies.toml"
    data.symlink_to("..data3")
    file.symlink_to("..data/policies.toml")
    watcher = PolicyWatcher(file, CALIBRATION)
    (tmp_path / "..new").symlink_to("..data4")
    (tmp_path / "..new").replace(data)
    assert watcher.reload_if_changed()
    assert watcher.book.choose(ask()).version == "4"


def test_half_written_file_is_not_believed(file: Path) -> None:
    """Half of a file that is valid by itself is waited out: written in place, it must look the same twice."""
    watcher = PolicyWatcher(file, CALIBRATION)
    whole = GOOD.replace('"3"', '"4"')
    file.write_text(whole.partition("[tenants")[0])
    assert not watcher.reload_if_changed()
    file.write_text(whole)
    assert not watcher.reload_if_changed()
    assert watcher.book.choose(ask("acme")).policy_id == "lenient"
    assert watcher.reload_if_changed()
    assert watcher.book.choose(ask()).version == "4"


def write_nothing(file: Path) -> None:
    """Take the file away."""
    file.unlink()


def write_same_version(file: Path) -> None:
    """Change a rate and keep the version."""
    replace(file, GOOD.replace("0.02", "0.03"))


def write_nonsense(file: Path) -> None:
    """Exchange the file for one that is no TOML."""
    replace(file, GOOD + "[")


def forbid(file: Path) -> None:
    """Put a folder where the file was."""
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("spoil", [write_nothing, write_same_version, write_nonsense, forbid])
def test_bad_file_keeps_the_old_policies_and_says_so_once(
    file: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    """An invalid file leaves the old policies in use and is logged once; a valid file replaces them."""
    watcher = PolicyWatcher(file, CALIBRATION)
    before = watcher.book
    spoil(file)
    with caplog.at_level(logging.ERROR):
        assert [watcher.reload_if_changed() for _ in range(3)] == [False] * 3
    assert watcher.book is before
    assert watcher.refused
    assert len(caplog.records) == 1
    assert str(file) in str(caplog.records[0].__dict__["fields"])
    if file.is_dir():
        file.rmdir()
    replace(file, GOOD.replace('"3"', '"5"'))
    assert watcher.reload_if_changed()
    assert not watcher.refused
    assert watcher.book.choose(ask()).version == "5"


def test_a_version_never_means_two_policies(file: Path) -> None:
    """A policy that went away and came back with other rates under its old version is refused, too."""
    watcher = PolicyWatcher(file, CALIBRATION)
    replace(file, GOOD.replace('"1"', '"2"').replace("0.02", "0.03"))
    assert watcher.reload_if_changed()
    replace(file, GOOD.replace("0.02", "0.03"))
    assert not watcher.reload_if_changed()
    assert watcher.book.policies["lenient"].version == "2"
    replace(file, GOOD)
    assert watcher.reload_if_changed()
    assert watcher.book.policies["lenient"].flag_false_alarm_rate == 0.02


def test_watching_leaks_no_descriptor(file: Path) -> None:
    """A thousand checks of a valid file and of a missing one leave no file open."""
    watcher = PolicyWatcher(file, CALIBRATION)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    for _ in range(500):
        watcher.reload_if_changed()
    file.unlink()
    for _ in range(500):
        watcher.reload_if_changed()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - a count


def test_the_example_is_good(root: Path, starter: Bundle) -> None:
    """The documented example loads for the starter's calibration, and its comments name every key."""
    path = root / "deploy" / "policies.toml"
    book = read_policies(path, starter.manifest.calibration)
    assert book.choose(ask("example-forum", "avatars")).policy_id == "avatars"
    assert book.choose(ask("anybody")).policy_id == "standard"
    for key in ("default_policy", "streams", *Policy.model_fields):
        assert key in path.read_text()
