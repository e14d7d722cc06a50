"""The errors that are not counted as a crash of the records in flight: the worker closes its crash notes and exits."""

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
    """Another thread is about to exit the process for a cause that lies in no record."""


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
