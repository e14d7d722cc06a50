"""Settings: file < environment < flag, and nothing unknown."""

import subprocess
from pathlib import Path

import pytest

from scorer.errors import SettingsError
from scorer.settings import Settings, load_settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file that the environment names."""
    file = tmp_path / "unlensed.toml"
    file.write_text('threads = 3\nbatch_images = 5\n[policy]\npolicy_id = "strict"\n[limits]\nmax_bytes = 1000\n')
    monkeypatch.setenv("UNLENSED_CONFIG", str(file))
    return file


@pytest.mark.usefixtures("config")
def test_flag_beats_environment_beats_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source overrides the one below it, field by field."""
    monkeypatch.setenv("UNLENSED_BATCH_IMAGES", "7")
    monkeypatch.setenv("UNLENSED_POLICY__FLAG_FALSE_ALARM_RATE", "0.02")
    settings = load_settings(threads=9, bundle=None)
    assert (settings.threads, settings.batch_images) == (9, 7)
    assert (settings.policy.policy_id, settings.policy.flag_false_alarm_rate) == ("strict", 0.02)
    assert settings.limits.max_bytes == 1000


def test_unknown_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is an error that names it."""
    monkeypatch.setenv("UNLENSED_TREADS", "2")
    with pytest.raises(SettingsError, match="UNLENSED_TREADS"):
        load_settings()


def test_variables_of_the_repository_itself_are_no_mistake(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service starts with every `UNLENSED_*` variable of this repository's tools, tests and charts."""
    listing = subprocess.run(
        ["git", "grep", "--untracked", "-ohIE", r"\bUNLENSED_[A-Z_]*[A-Z]\b"],  # noqa: S607 - where the developer has it
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    no_variables = {"UNLENSED_TREADS", "UNLENSED_DECISION", "UNLENSED_SCORE"}  # a mistake in tests; signals for Coop
    names = {name.partition("__")[0] for name in listing.stdout.split()} - no_variables
    settings = {f"UNLENSED_{name}".upper() for name in Settings.model_fields} | {"UNLENSED_CONFIG"}
    assert {"UNLENSED_KAFKA_JARS", "UNLENSED_TOOLS"} <= names - settings
    for name in names - settings:
        monkeypatch.setenv(name, "1")
    load_settings()


def test_unknown_name_in_the_file_is_refused(config: Path) -> None:
    """A misspelt key in the file is an error that names it."""
    config.write_text("treads = 2\n")
    with pytest.raises(SettingsError, match="treads"):
        load_settings()


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("device", "tpu"), ("batch_images", "many")])
def test_bad_value_is_refused(name: str, value: object) -> None:
    """A value outside its range is an error that names the setting."""
    with pytest.raises(SettingsError, match=name):
        load_settings(**{name: value})


def test_missing_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A configuration file that is not there is an error, not an empty configuration."""
    monkeypatch.setenv("UNLENSED_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(SettingsError, match=r"gone\.toml"):
        load_settings()
