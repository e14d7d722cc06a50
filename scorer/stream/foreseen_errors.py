"""Why a worker ends for which no record is to blame: with an exit code of its own, and closed notes."""

from ingest.detector_pool import SandboxBroken
from scorer.errors import (
    BackendUnavailable,
    BrokerRefused,
    BrokerUnavailable,
    BundleMismatch,
    PolicyError,
    SettingsError,
)


class ForeseenExit(Exception):
    """Another thread is about to end the process for a cause that lies in no record."""


# Ends with an exit code of their own, for which no record is to blame.
FORESEEN = (
    BackendUnavailable,
    BrokerRefused,
    BrokerUnavailable,
    BundleMismatch,
    ForeseenExit,
    PolicyError,
    SandboxBroken,
    SettingsError,
)
