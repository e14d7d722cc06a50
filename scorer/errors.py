"""Every exception that ends a command with an exit code of its own, and the exit codes.

    UnlensedError
    ├── UsageError              2   the command line names something that cannot be used
    ├── NothingToExplain        3   an image or a face without a score
    ├── BundleMismatch          65  the bundle is damaged, or the engine does not match it
    ├── RunBroken               65  the folder of a scan contradicts its commit marks
    ├── SourceChanged           65  a tar or manifest changed since the scan was planned
    ├── SourceDamaged           65  a tar or manifest cannot be read to its end
    ├── TooScattered            65  the record of the replayed dead letters is too large
    ├── TrainingDiverged        65  the loss or a weight is not a number
    ├── SettingsError           78  a setting is unknown or has no usable value
    ├── PolicyError             78  the calibration does not support the policy
    ├── PlanBuilderMissing      78  nothing here builds a plan
    ├── MissingExtra            78  a package of an optional extra is not installed
    ├── RunRefused              78  the folder holds the scan of another bundle, policy or archive
    ├── BrokerRefused           78  the broker will never accept the request
    ├── BrokerUnavailable       75  the broker does not answer
    ├── BackendUnavailable      75  the engine does not answer
    ├── PayloadUnavailable      75  an image cannot be read now
    │   └── PayloadRefused      78  a store denies access
    ├── RunNotReady             75  the scan is not planned yet
    ├── ArchiveUnavailable      75  the archive cannot be read now
    ├── ScanInterrupted         75  the scan was stopped
    ├── CannotCommit            75  a shard cannot be written
    └── TrainingInterrupted     75  the training was stopped

Exceptions that become an answer (`ingest.reasons.Unscorable`, `scorer.policies.PolicyNotFound`) are defined beside the
code that raises them. An exception that is not in this tree is a defect: the command exits with 70.
"""

import textwrap
from enum import IntEnum
from typing import ClassVar, Self

_WIDTH = 76  # columns of a help text on a terminal of 80


class Exit(IntEnum):
    """Exit codes and their meanings; the codes of sysexits.h where it has one.

    Attributes:
        meaning: the text of the table in scorer/README.md.
    """

    meaning: str

    DONE = 0, "done"
    USAGE = 2, "wrong usage"
    FAILURES = 3, "too many images failed, or dead letters in a replay"
    BAD_DATA = 65, "bad bundle, an engine that is not the bundle's, or an archive that changed under a scan"
    CRASHED = 70, "a defect: please report it"
    GPU_LOST = (
        71,
        "the process has lost the GPU: restart the process; the work in flight was not committed",
    )
    TRY_AGAIN = (
        75,
        "retry later: a broker, a store, a disk, a port or GPU memory is unavailable, or a scan or training stopped",
    )
    BAD_CONFIGURATION = (
        78,
        "bad configuration, another run in the folder, or a broker that refuses the client",
    )
    INTERRUPTED = 130, "stopped by Ctrl-C (a scan or a training: 75), or a question was answered with no"

    def __new__(cls, code: int, meaning: str) -> Self:
        """Return the member of `code`."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class UnlensedError(Exception):
    """The base of every expected error: its message is one sentence for the person who runs the command.

    Attributes:
        exit_code: the exit code of the command.
    """

    exit_code: ClassVar[Exit]


class UsageError(UnlensedError, ValueError):
    """The command line names something that cannot be used; the message names it."""

    exit_code = Exit.USAGE


class NothingToExplain(UnlensedError):
    """The image or the face to explain has no score; the message states why."""

    exit_code = Exit.FAILURES


class BundleMismatch(UnlensedError):
    """The bundle is damaged, is another one than requested, or is not for this version: it must not be used."""

    exit_code = Exit.BAD_DATA


class RunBroken(UnlensedError, ValueError):
    """A run's folder contradicts its commit marks; the message names the file."""

    exit_code = Exit.BAD_DATA


class SourceChanged(UnlensedError):
    """A tar or manifest is missing or has changed since the run was planned; the message names it."""

    exit_code = Exit.BAD_DATA


class SourceDamaged(UnlensedError):
    """A tar or manifest cannot be read to its end; the message names it. What was read before stays valid."""

    exit_code = Exit.BAD_DATA


class TooScattered(UnlensedError):
    """The replayed dead letters are so scattered among the others that a record of them is too large for the broker."""

    exit_code = Exit.BAD_DATA


class TrainingDiverged(UnlensedError):
    """The loss or a weight is no longer a number; the last good checkpoint is kept."""

    exit_code = Exit.BAD_DATA


class SettingsError(UnlensedError, ValueError):
    """A setting is unknown or has no usable value; the message names the setting and its source."""

    exit_code = Exit.BAD_CONFIGURATION


class PolicyError(UnlensedError, ValueError):
    """The policy requests a rate that the calibration of this bundle does not support."""

    exit_code = Exit.BAD_CONFIGURATION


class PlanBuilderMissing(UnlensedError, RuntimeError):
    """No builder of plans can be used on this machine; the message states why for each."""

    exit_code = Exit.BAD_CONFIGURATION


class MissingExtra(UnlensedError):
    """A command needs a package that is not installed; the message names it and the command that installs it."""

    exit_code = Exit.BAD_CONFIGURATION

    def __init__(self, command: str, distribution: str, line: str) -> None:
        super().__init__(f"{command} needs the package {distribution}, which is not installed: {line}")


class RunRefused(UnlensedError, ValueError):
    """The folder contains a run of another bundle, policy or archive, or no run; the message names the difference."""

    exit_code = Exit.BAD_CONFIGURATION


class BrokerRefused(UnlensedError):
    """The broker will never accept this: no such topic, no permission, or this worker was fenced by its successor."""

    exit_code = Exit.BAD_CONFIGURATION


class BrokerUnavailable(UnlensedError):
    """The broker does not answer or asks the client to wait; the same call may succeed later. A retry is safe."""

    exit_code = Exit.TRY_AGAIN


class BackendUnavailable(UnlensedError):
    """The engine is down, slow or overloaded; the same faces may be scored later.

    Attributes:
        blames_faces: the engine answered that it failed internally, perhaps because of the faces in the batch.
    """

    exit_code = Exit.TRY_AGAIN

    def __init__(self, message: str, *, blames_faces: bool = False) -> None:
        super().__init__(message)
        self.blames_faces = blames_faces


class PayloadUnavailable(UnlensedError):
    """An image cannot be read now, for a reason that is not in the image: the record may be replayed later.

    The message contains no query, user or password of a URI.
    """

    exit_code = Exit.TRY_AGAIN


class PayloadRefused(PayloadUnavailable):
    """A store denies access to this machine: a retry helps only after its credentials or permissions have changed."""

    exit_code = Exit.BAD_CONFIGURATION


class RunNotReady(UnlensedError):
    """The run is not planned yet; the process with index 0 plans it."""

    exit_code = Exit.TRY_AGAIN


class ArchiveUnavailable(UnlensedError):
    """The archive cannot be read now; the images that are not committed have no result yet."""

    exit_code = Exit.TRY_AGAIN


class ScanInterrupted(UnlensedError):
    """The scan was stopped; committed shards are kept."""

    exit_code = Exit.TRY_AGAIN


class CannotCommit(UnlensedError, OSError):
    """A shard cannot be written, for example because the disk is full."""

    exit_code = Exit.TRY_AGAIN


class TrainingInterrupted(UnlensedError):
    """Ctrl-C, SIGTERM, a full disk, or another process at work: the same command resumes, as the message states."""

    exit_code = Exit.TRY_AGAIN


def describe_exits() -> str:
    """Return the table as the last paragraph of a help text; its first line keeps Typer from joining the lines."""
    lines = [
        line
        for each in Exit
        for line in textwrap.wrap(f"{each:>4d}  {each.meaning}", _WIDTH, subsequent_indent=" " * 6)
    ]
    return "\n".join(["\b", "Exit codes:", *lines])
