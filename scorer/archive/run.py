"""`run.json`: the description of a run, so that every process of the run does the same work with the same bundle."""

import errno
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ingest.clips import DEFAULT_CLIP_SETTINGS, ClipSettings
from ingest.probe import Limits
from scorer.archive.folder import is_partial, publish_json, utf8_path
from scorer.bundle.bundle import Bundle
from scorer.bundle.manifest import Evaluation
from scorer.decide import Policy, resolve_policy
from scorer.errors import RunBroken, RunNotReady, RunRefused, UsageError
from scorer.files import require_local
from scorer.messages import describe_problems
from scorer.settings import Settings

SHOWN_CHARACTERS = 120
_UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOENT})


class RunFile(BaseModel):
    """The run's description; a process that resumes the run must have the same bundle, policy, limits and sources.

    Attributes:
        version: of the unlensed that started it.
        bundle_id, bundle_digest: of the bundle that scores.
        policy, limits, video: the settings that change results; runs of earlier releases have no `video`.
        statements: whether statements are read, and with which trust list; runs of earlier releases read none.
        policy_note: why the policy differs from the settings, or nothing.
        evaluation: the bundle's statement of its evaluation; runs of earlier releases have none.
        sources: as given on the command line.
        options: how the sources are read.
        shards: how many the plan has.
        plan_digest: SHA-256 of the plan.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    created_at: datetime
    bundle_id: str
    bundle_digest: str
    policy: Policy
    limits: Limits
    video: ClipSettings = DEFAULT_CLIP_SETTINGS
    statements: str = "not read"
    sources: tuple[str, ...]
    options: dict[str, Any]
    shards: int
    plan_digest: str
    policy_note: str = ""
    evaluation: Evaluation | None = None


def describe_run(
    settings: Settings, bundle: Bundle, sources: tuple[str, ...], options: dict[str, Any], version: str
) -> RunFile:
    """Return the description of a run that is not planned yet.

    Raises:
        PolicyError: the bundle's calibration does not support the policy's rates.
        SettingsError: the trust list cannot be read.
    """
    policy, note = resolve_policy(settings.policy, bundle.manifest.calibration)
    return RunFile(
        version=version,
        created_at=datetime.now(UTC),
        bundle_id=bundle.manifest.bundle_id,
        bundle_digest=bundle.model.digest,
        policy=policy,
        policy_note=note,
        evaluation=bundle.manifest.evaluation,
        limits=settings.limits,
        video=settings.video,
        statements=_name_reading(settings.provenance.read_trust()),
        sources=sources,
        options=options,
        shards=0,
        plan_digest="",
    )


def _name_reading(trust: str | None) -> str:
    """Return whether statements are read, and with which trust list; `trust` is the list's text."""
    if trust is None:
        return "not read"
    return f"read with the trust list {hashlib.sha256(trust.encode()).hexdigest()}" if trust else "read"


def find_run(folder: Path) -> RunFile | None:
    """Return the content of `run.json`, or None if there is no such file.

    Raises:
        RunBroken: it is not valid.
    """
    path = folder / "run.json"
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        message = f"{path} is not a run of this release ({describe_problems(error)}): name another folder"
        raise RunBroken(message) from error


def read_run(folder: Path) -> RunFile:
    """Return the content of `run.json`.

    Raises:
        UsageError: there is no such file, so `folder` is not a run.
        RunBroken: it is not valid.
    """
    run = find_run(folder)
    if run is None:
        message = f"{folder} contains no run.json: name the folder that `unlensed scan --out` wrote"
        raise UsageError(message)
    return run


def open_run(folder: Path, wanted: RunFile, make_plan: Callable[[Path], tuple[int, str]], *, new_run: bool) -> RunFile:
    """Resume the run in `folder`, or start one.

    Args:
        folder: the run's folder.
        wanted: the run that the command line describes.
        make_plan: writes the plan into the folder it is given and returns (number of shards, digest).
        new_run: rename `folder` if its run differs, so that a new run starts. The same run is resumed, so that a
            process that is restarted with the same command line never starts a second run.

    Raises:
        UsageError: `folder` is a URI.
        RunRefused: its run differs and `new_run` is false, the folder contains something else, or it cannot be
            written.
        RunBroken: its run.json is not valid.
        OSError: for example, the disk is full.
    """
    require_local(folder)
    utf8_path(folder.absolute())  # raises before anything is written
    found = find_run(folder)
    if found and (difference := describe_difference(found, wanted)):
        if not new_run:
            message = (
                f"{folder} contains another run: {difference}; name another --out, or add --new-run to rename "
                "that run's folder and start a new run"
            )
            raise RunRefused(message)
        folder.rename(choose_backup_name(folder, found.created_at))
        found = None
    if found:
        return found
    ours = {"_plan", "_stats", "_attempts"}
    if folder.is_dir() and any(path.name not in ours and not is_partial(path) for path in folder.iterdir()):
        message = f"{folder} is not empty and contains no run: name an empty folder, or one that does not exist yet"
        raise RunRefused(message)
    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shards, digest = make_plan(folder / "_plan")
        run = wanted.model_copy(update={"shards": shards, "plan_digest": digest})
        publish_json(folder / "run.json", run)
    except BaseException as error:
        for empty in (folder / "_plan", folder) if created else ():  # a mistyped source leaves no folder
            with suppress(OSError):
                empty.rmdir()
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            message = f"{folder} cannot be written ({error.strerror}): name another --out, or change its permissions"
            raise RunRefused(message) from error
        raise
    return run


def wait_for_run(folder: Path, wanted: RunFile, timeout_s: float, pause_s: float = 1.0) -> RunFile:
    """Wait for the run that the process of index 0 plans, and return it.

    Raises:
        RunNotReady: after `timeout_s` there is no run, or another one.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = find_run(folder)
        difference = describe_difference(found, wanted) if found else "it is not planned yet"
        if found and not difference:
            return found
        if time.monotonic() >= deadline_s:
            message = f"{folder} has no such run after {timeout_s:g} s ({difference}): start the process of index 0"
            raise RunNotReady(message)
        time.sleep(pause_s)


def describe_difference(found: RunFile, wanted: RunFile) -> str:
    """Return in words what differs between two runs, or nothing."""
    names = ("bundle_digest", "policy", "limits", "video", "statements", "sources", "options")
    for name in names:
        old, new = (run.model_dump(mode="json")[name] for run in (found, wanted))
        if isinstance(old, dict):
            for key in sorted({*old, *new}):
                if old.get(key) != new.get(key):
                    return (
                        f"its {name.rstrip('s')} {key} is {_shorten(old.get(key))}, "
                        f"now it would be {_shorten(new.get(key))}"
                    )
        elif old != new:
            bundles = f" ({found.bundle_id} there, {wanted.bundle_id} here)" if name == "bundle_digest" else ""
            return f"its {name.replace('_', ' ')}: {_shorten(old)}, now: {_shorten(new)}{bundles}"
    return ""


def choose_backup_name(folder: Path, created_at: datetime) -> Path:
    """Return an unused name beside `folder` for the run that was started at `created_at`."""
    stem = folder.absolute().with_name(f"{folder.absolute().name}.{created_at:%Y%m%dT%H%M%SZ}")
    number, name = 1, stem
    while name.exists():
        number += 1
        name = stem.with_name(f"{stem.name}.{number}")
    return name


def _shorten(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
