"""`run.json`: what a run is, so that whoever goes on with it does the same work with the same bundle."""

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ingest.probe import Limits
from scorer.archive.folder import is_partial, publish_json, utf8_path
from scorer.bundle.bundle import Bundle
from scorer.bundle.manifest import Evaluation
from scorer.decide import Policy, settle_policy
from scorer.errors import RunBroken, RunNotReady, RunRefused, UsageError
from scorer.files import require_local
from scorer.messages import describe_problems
from scorer.settings import Settings

SHOWN_CHARACTERS = 120
_UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOENT})


class RunFile(BaseModel):
    """The run's description; all but `created_at` and what the plan found must be the same for whoever goes on.

    Attributes:
        version: of unlensed, which made it.
        bundle_id, bundle_digest: what scores.
        policy, limits: of the settings, as far as they change results.
        policy_note: why the policy is not the settings', or nothing.
        evaluation: what the bundle states of its evaluation; runs of earlier releases state none.
        sources: as given on the command line.
        options: how the sources are read.
        shards: how many there are.
        plan_digest: SHA-256 of the plan.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    created_at: datetime
    bundle_id: str
    bundle_digest: str
    policy: Policy
    limits: Limits
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
    """
    policy, note = settle_policy(settings.policy, bundle.manifest.calibration)
    return RunFile(
        version=version,
        created_at=datetime.now(UTC),
        bundle_id=bundle.manifest.bundle_id,
        bundle_digest=bundle.model.digest,
        policy=policy,
        policy_note=note,
        evaluation=bundle.manifest.evaluation,
        limits=settings.limits,
        sources=sources,
        options=options,
        shards=0,
        plan_digest="",
    )


def find_run(folder: Path) -> RunFile | None:
    """Return what `run.json` says, or None while there is none.

    Raises:
        RunBroken: it cannot be understood.
    """
    path = folder / "run.json"
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        message = f"{path} is no run of this release ({describe_problems(error)}): name another folder"
        raise RunBroken(message) from error


def read_run(folder: Path) -> RunFile:
    """Return what `run.json` says.

    Raises:
        UsageError: there is none, so `folder` is no run.
        RunBroken: it cannot be understood.
    """
    run = find_run(folder)
    if run is None:
        message = f"{folder} holds no run.json: name the folder that `unlensed scan --out` wrote"
        raise UsageError(message)
    return run


def open_run(folder: Path, wanted: RunFile, make_plan: Callable[[Path], tuple[int, str]], *, new_run: bool) -> RunFile:
    """Go on with the run in `folder`, or begin one.

    Args:
        folder: the run's.
        wanted: what the command line asks for.
        make_plan: writes the plan into the folder it is given and returns (number of shards, digest).
        new_run: a run there that differs is renamed aside, whole, beside `folder`; the same one is gone on with, so
            that a process which is started again with the same command line starts nothing twice.

    Raises:
        UsageError: `folder` is a URI.
        RunRefused: the run there differs and `new_run` was not asked for, the folder holds something else, or it may
            not be written.
        RunBroken: its run.json cannot be understood.
        OSError: the disk is full, among others.
    """
    require_local(folder)
    utf8_path(folder.absolute())  # told before anything is written there
    there = find_run(folder)
    if there and (difference := find_difference(there, wanted)):
        if not new_run:
            message = (
                f"{folder} holds another run: {difference}; name another --out, or say --new-run to rename "
                "that run aside and begin anew"
            )
            raise RunRefused(message)
        folder.rename(name_aside(folder, there.created_at))
        there = None
    if there:
        return there
    ours = {"_plan", "_stats", "_attempts"}
    if folder.is_dir() and any(path.name not in ours and not is_partial(path) for path in folder.iterdir()):
        message = f"{folder} is not empty and holds no run: name an empty folder, or one that does not exist yet"
        raise RunRefused(message)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shards, digest = make_plan(folder / "_plan")
        run = wanted.model_copy(update={"shards": shards, "plan_digest": digest})
        publish_json(folder / "run.json", run)
    except BaseException as error:
        for empty in (folder / "_plan", folder) if made else ():  # a mistyped source leaves nothing behind
            with suppress(OSError):
                empty.rmdir()
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            message = f"{folder} cannot be written ({error.strerror}): name another --out, or see to its rights"
            raise RunRefused(message) from error
        raise
    return run


def await_run(folder: Path, wanted: RunFile, patience_s: float, pause_s: float = 1.0) -> RunFile:
    """Return the run that the process of index 0 plans, waiting for it.

    Raises:
        RunNotReady: it is not there in time, or still another one is.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        there = find_run(folder)
        difference = find_difference(there, wanted) if there else "it is not planned yet"
        if there and not difference:
            return there
        if time.monotonic() >= deadline_s:
            message = f"{folder} has no such run after {patience_s:g} s ({difference}): start the process of index 0"
            raise RunNotReady(message)
        time.sleep(pause_s)


def find_difference(there: RunFile, wanted: RunFile) -> str:
    """Return in words what differs between two runs, or nothing."""
    names = ("bundle_digest", "policy", "limits", "sources", "options")
    for name in names:
        old, new = (run.model_dump(mode="json")[name] for run in (there, wanted))
        if isinstance(old, dict):
            for key in sorted({*old, *new}):
                if old.get(key) != new.get(key):
                    return (
                        f"its {name.rstrip('s')} {key} is {_show(old.get(key))}, now it would be {_show(new.get(key))}"
                    )
        elif old != new:
            of_bundle = f" ({there.bundle_id} there, {wanted.bundle_id} here)" if name == "bundle_digest" else ""
            return f"its {name.replace('_', ' ')}: {_show(old)}, now: {_show(new)}{of_bundle}"
    return ""


def name_aside(folder: Path, created_at: datetime) -> Path:
    """Return a free name beside `folder` for the run that was begun at `created_at`."""
    stem = folder.absolute().with_name(f"{folder.absolute().name}.{created_at:%Y%m%dT%H%M%SZ}")
    number, name = 1, stem
    while name.exists():
        number += 1
        name = stem.with_name(f"{stem.name}.{number}")
    return name


def _show(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
