"""Every exception that ends a command with an exit code of its own, and the exit codes.

    UnlensedError
    ├── UsageError              2   the command line names something that cannot be used
    ├── BundleMismatch          65  the bundle or the engine is not what it must be
    ├── RunBroken               65  the folder of a scan is not what its commit marks say
    ├── SourceChanged           65  a tar or manifest changed since the scan was planned
    ├── SourceDamaged           65  a tar or manifest cannot be read to its end
    ├── TooScattered            65  the replayed dead letters cannot be recorded
    ├── TrainingDiverged        65  the loss or a weight is not a number
    ├── SettingsError           78  a setting is unknown or has no usable value
    ├── PolicyError             78  the calibration does not support the policy
    ├── PlanBuilderMissing      78  neither TensorRT nor trtexec is installed
    ├── MissingExtra            78  a package of an optional extra is not installed
    ├── RunRefused              78  the folder holds the scan of another bundle, policy or archive
    ├── BrokerRefused           78  the broker will never accept the request
    ├── BrokerUnavailable       75  the broker does not answer now
    ├── BackendUnavailable      75  the engine does not answer now
    ├── PayloadUnavailable      75  an image cannot be read now
    │   └── PayloadRefused      78  a store refuses this machine
    ├── RunNotReady             75  the scan is not planned yet
    ├── ArchiveUnavailable      75  the archive cannot be read now
    ├── ScanInterrupted         75  the scan was stopped
    ├── CannotCommit            75  a shard cannot be written
    └── TrainingInterrupted     75  the training was stopped

Exceptions that become an answer instead (`ingest.reasons.Unscorable`, `scorer.policies.PolicyNotFound`) stand beside
the code that raises them. An exception that is not in this tree ends a command with 70: it is a defect.
"""

import textwrap
from enum import IntEnum
from typing import ClassVar, Self

_WIDTH = 76  # of a help text's line on a terminal of 80 columns


class Exit(IntEnum):
    """Exit codes with what each means; those of sysexits.h where it has one.

    Attributes:
        meaning: what a person is told, as the table in scorer/README.md says it.
    """

    meaning: str

    DONE = 0, "done"
    USAGE = 2, "wrong usage"
    FAILURES = 3, "too many images failed, or dead letters in a replay"
    BAD_DATA = 65, "bad bundle, an engine that is not the bundle's, or an archive that changed under a scan"
    CRASHED = 70, "a defect: please report it"
    GPU_LOST = (
        71,
        "the GPU is lost to the process: start it again, nothing of the work in hand was committed",
    )
    TRY_AGAIN = (
        75,
        "try again: a broker, a store, a disk, a port or the GPU's memory is not there now, or a scan was stopped",
    )
    BAD_CONFIGURATION = (
        78,
        "bad configuration, another run in the folder, or a broker that refuses us",
    )
    INTERRUPTED = 130, "stopped by Ctrl-C, or a question was answered with no"

    def __new__(cls, code: int, meaning: str) -> Self:
        """Return the member of `code`."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class UnlensedError(Exception):
    """The base of every foreseen error: its message is one sentence for the person who runs the command.

    Attributes:
        exit_code: with which a command ends because of it.
    """

    exit_code: ClassVar[Exit]


class UsageError(UnlensedError, ValueError):
    """The command line names something that cannot be used; the sentence names it."""

    exit_code = Exit.USAGE


class BundleMismatch(UnlensedError):
    """The bundle is not what it says it is, or not for this version: refuse to start."""

    exit_code = Exit.BAD_DATA


class RunBroken(UnlensedError, ValueError):
    """A run's folder is not what its marks say; the sentence names the file."""

    exit_code = Exit.BAD_DATA


class SourceChanged(UnlensedError):
    """A tar or manifest is gone, or is not what it was when the run was planned; the sentence names it."""

    exit_code = Exit.BAD_DATA


class SourceDamaged(UnlensedError):
    """A tar or manifest cannot be read to its end; the sentence names it. What came before holds."""

    exit_code = Exit.BAD_DATA


class TooScattered(UnlensedError):
    """The replayed dead letters lie too scattered among the others for a record of them to fit at the broker."""

    exit_code = Exit.BAD_DATA


class TrainingDiverged(UnlensedError):
    """The loss or a weight is no longer a number; the last good checkpoint stands."""

    exit_code = Exit.BAD_DATA


class SettingsError(UnlensedError, ValueError):
    """A setting is unknown or has no usable value; the sentence names it and where it came from."""

    exit_code = Exit.BAD_CONFIGURATION


class PolicyError(UnlensedError, ValueError):
    """The policy asks what this bundle's calibration cannot support."""

    exit_code = Exit.BAD_CONFIGURATION


class PlanBuilderMissing(UnlensedError, RuntimeError):
    """Neither TensorRT's Python package nor trtexec is on this machine."""

    exit_code = Exit.BAD_CONFIGURATION


class MissingExtra(UnlensedError):
    """A command needs a package that is not installed; the sentence names it and the line that installs it."""

    exit_code = Exit.BAD_CONFIGURATION

    def __init__(self, command: str, distribution: str, line: str) -> None:
        super().__init__(f"{command} needs the package {distribution}, which is not installed: {line}")


class RunRefused(UnlensedError, ValueError):
    """The folder holds a run of another bundle, policy or archive, or no run; the sentence names the difference."""

    exit_code = Exit.BAD_CONFIGURATION


class BrokerRefused(UnlensedError):
    """The broker will never do this: no such topic, no right to it, or this worker was fenced by its successor."""

    exit_code = Exit.BAD_CONFIGURATION


class BrokerUnavailable(UnlensedError):
    """The broker does not answer or asks to wait; the same call may succeed later. Nothing is lost by a retry."""

    exit_code = Exit.TRY_AGAIN


class BackendUnavailable(UnlensedError):
    """The engine is down, slow or overloaded; the same faces may be scored later.

    Attributes:
        blames_faces: the engine is there and says that it failed inside: perhaps because of what it was sent.
    """

    exit_code = Exit.TRY_AGAIN

    def __init__(self, message: str, *, blames_faces: bool = False) -> None:
        super().__init__(message)
        self.blames_faces = blames_faces


class PayloadUnavailable(UnlensedError):
    """An image cannot be had now, which says nothing about the image: the record may be replayed later.

    The message holds no URI's query, user or password.
    """

    exit_code = Exit.TRY_AGAIN


class PayloadRefused(PayloadUnavailable):
    """A store does not let this machine in: a retry helps only when its credentials or rights have changed."""

    exit_code = Exit.BAD_CONFIGURATION


class RunNotReady(UnlensedError):
    """The run is not planned yet; the process of index 0 does that."""

    exit_code = Exit.TRY_AGAIN


class ArchiveUnavailable(UnlensedError):
    """The archive cannot be read now; what is not committed is not answered."""

    exit_code = Exit.TRY_AGAIN


class ScanInterrupted(UnlensedError):
    """Somebody stopped the scan; what is committed stays."""

    exit_code = Exit.TRY_AGAIN


class CannotCommit(UnlensedError, OSError):
    """A shard cannot be written: the disk is full, among others."""

    exit_code = Exit.TRY_AGAIN


class TrainingInterrupted(UnlensedError):
    """Ctrl-C, SIGTERM or a full disk: the same command goes on from where it stood, as the sentence says."""

    exit_code = Exit.TRY_AGAIN


def describe_exits() -> str:
    """Return the table as the last paragraph of a help text; its first line keeps Typer from filling the others."""
    lines = [
        line
        for each in Exit
        for line in textwrap.wrap(f"{each:>4d}  {each.meaning}", _WIDTH, subsequent_indent=" " * 6)
    ]
    return "\n".join(["\b", "Exit codes:", *lines])
