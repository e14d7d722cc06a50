"""The policy of a request: one file defines policies and assigns them to tenants and streams.

`deploy/policies.toml` is an example that explains every key.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError

from scorer.decide import CalibrationSize, Policy, check_statement_rules, resolve_policy
from scorer.errors import PolicyError
from scorer.messages import DeadLetterCode, Message, ScoreRequest, describe_problems
from scorer.observe.logs import get_logger

MAX_FILE_BYTES = 1 << 20
_SHOWN_CHARACTERS = 80

log = get_logger(__name__)


class PolicyNotFound(Exception):
    """No policy applies to this request: it becomes a dead letter with this `code`."""

    code: ClassVar[DeadLetterCode]


class UnknownTenant(PolicyNotFound):
    """The request's tenant is not listed and there is no default policy."""

    code = DeadLetterCode.UNKNOWN_TENANT


class UnknownPolicy(PolicyNotFound):
    """The request names a policy that does not exist."""

    code = DeadLetterCode.UNKNOWN_POLICY


@dataclass(frozen=True, slots=True)
class TenantPolicies:
    """The policies of a tenant: `policy`, or another one for some of its streams."""

    policy: Policy
    streams: Mapping[str, Policy]


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """The policies by name, those of the tenants, and the default; without a default other tenants are refused."""

    policies: Mapping[str, Policy]
    tenants: Mapping[str, TenantPolicies]
    default: Policy | None

    @classmethod
    def from_policy(cls, policy: Policy) -> Self:
        """Return the book of a service without a file: one policy for every tenant."""
        return cls({policy.policy_id: policy}, {}, policy)

    def choose(self, request: ScoreRequest) -> Policy:
        """Return the policy of `request`: the one it names, else that of its stream, of its tenant, or the default.

        Raises:
            UnknownTenant: its tenant is not listed and there is no default, even if the request names a policy.
            UnknownPolicy: it names a policy that does not exist.
        """
        tenant = self.tenants.get(request.tenant or "")
        if tenant is None and self.default is None:
            message = f"tenant {_shorten(request.tenant)} is not in the policies' file, which has no default_policy"
            raise UnknownTenant(message)
        if request.policy_id is not None:
            if request.policy_id not in self.policies:
                message = f"policy {_shorten(request.policy_id)} does not exist; there are {', '.join(self.policies)}"
                raise UnknownPolicy(message)
            return self.policies[request.policy_id]
        chosen = tenant.streams.get(request.stream or "", tenant.policy) if tenant else self.default
        if chosen is None:
            message = "a book without a default must have refused an unlisted tenant"
            raise AssertionError(message)
        return chosen


class _TenantTable(Message):
    policy: str
    streams: dict[str, str] = Field(default_factory=dict)


class _PolicyFile(Message):
    default_policy: str | None = None
    policies: dict[str, dict[str, Any]]
    tenants: dict[str, _TenantTable] = Field(default_factory=dict)


def read_policies(path: Path, calibration: CalibrationSize, *, provenance: bool = False) -> PolicyBook:
    """Read a policies' file for a bundle with a `calibration` of this size.

    Raises:
        PolicyError: it cannot be read, has an unknown key or the name of a missing policy, sets a rate that the
            calibration does not support, or has rules for statements without `provenance` (whether they are read); the
            message names the file and the key.
    """
    return _parse(_read(path)[0], path, calibration, provenance=provenance)


class PolicyWatcher:
    """Reads a file of policies again while the service runs; `book` is always valid.

    Each check reads the whole file: it is small, and neither a coarse timestamp nor a replaced link (as Kubernetes does
    with a ConfigMap) can hide a change. A replaced file is used at once; a file that was written in place is used after
    two checks have found the same content, because half of a file may be a valid file.

    Attributes:
        book: the current policies.
        refused: whether the current file is invalid, so that `book` comes from an earlier one.

    Args:
        path: the file; None for a service without one.
        calibration: see `read_policies`.
        policy: the policy of every tenant if there is no file.
        provenance: see `read_policies`.

    Raises:
        PolicyError: the file is invalid at the start, or the calibration does not support `policy`.
    """

    def __init__(
        self,
        path: Path | None,
        calibration: CalibrationSize,
        policy: Policy | None = None,
        *,
        provenance: bool = False,
    ) -> None:
        self._path, self._calibration, self._provenance = path, calibration, provenance
        self._content: bytes
        self._identity: tuple[int, int] | None  # of the last file; None while there is no readable file
        self._content, self._identity = _read(path) if path else (b"", None)
        self._unstable = b""
        self.refused = False
        book = (
            _parse(self._content, path, calibration, provenance=provenance)
            if path
            else PolicyBook.from_policy(_settle(policy or Policy(), calibration))
        )
        self._versions: dict[tuple[str, str], Policy] = {}
        self._remember(book)
        self.book = book

    def reload_if_changed(self) -> bool:
        """Read the file and return whether `book` is new; an invalid file is logged once."""
        if self._path is None:
            return False
        try:
            content, identity = _read(self._path)
        except PolicyError as error:
            if self._identity is not None:
                self._keep_old(error)
            self._content, self._identity = b"", None
            return False
        if content == self._content:
            return False
        if identity == self._identity and content != self._unstable:
            self._unstable = content
            return False
        self._content, self._identity = content, identity
        try:
            book = _parse(content, self._path, self._calibration, provenance=self._provenance)
            self._remember(book)
        except PolicyError as error:
            self._keep_old(error)
            return False
        self.book, self.refused = book, False
        log.info("new policies", policies=", ".join(f"{p.policy_id} {p.version}" for p in book.policies.values()))
        return True

    def _remember(self, book: PolicyBook) -> None:
        """Refuse a policy that changed and kept its version: a version must stand for one set of rates."""
        for policy in book.policies.values():
            known = self._versions.get((policy.policy_id, policy.version), policy)
            if known != policy:
                message = (
                    f"{self._path}: policies.{policy.policy_id} differs from what its version {policy.version!r} "
                    "was before: give it a new version"
                )
                raise PolicyError(message)
        self._versions |= {(policy.policy_id, policy.version): policy for policy in book.policies.values()}

    def _keep_old(self, error: PolicyError) -> None:
        self.refused = True
        log.error("the policies' file is invalid; the old policies stay in use", why=str(error))


def _read(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return the file's bytes and which file it is (device and inode)."""
    try:
        with path.open("rb") as file:
            content, facts = file.read(MAX_FILE_BYTES + 1), os.fstat(file.fileno())
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise PolicyError(message) from error
    if len(content) > MAX_FILE_BYTES:
        message = f"{path}: larger than the limit of {MAX_FILE_BYTES} bytes for a file of policies"
        raise PolicyError(message)
    return content, (facts.st_dev, facts.st_ino)


def _parse(content: bytes, path: Path, calibration: CalibrationSize, *, provenance: bool) -> PolicyBook:
    try:
        file = _PolicyFile.model_validate(tomllib.loads(content.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{path}: not TOML: {error}"
        raise PolicyError(message) from error
    except ValidationError as error:
        message = f"{path}: {describe_problems(error)}"
        raise PolicyError(message) from error
    policies = {name: _make_policy(name, fields, path, calibration) for name, fields in file.policies.items()}
    for policy in policies.values():
        try:
            check_statement_rules(policy, read=provenance)
        except ValueError as error:
            message = f"{path}: {error}"
            raise PolicyError(message) from error

    def find(name: str, key: str) -> Policy:
        if name not in policies:
            message = f"{path}: {key} names {name!r}, but there is no [policies.{name}]"
            raise PolicyError(message)
        return policies[name]

    tenants = {
        tenant: TenantPolicies(
            find(table.policy, f"tenants.{tenant}.policy"),
            {stream: find(name, f"tenants.{tenant}.streams.{stream}") for stream, name in table.streams.items()},
        )
        for tenant, table in file.tenants.items()
    }
    default = None if file.default_policy is None else find(file.default_policy, "default_policy")
    if default is None and not tenants:
        message = f"{path}: no tenant and no default_policy: every request would be refused"
        raise PolicyError(message)
    return PolicyBook(policies, tenants, default)


def _make_policy(name: str, fields: Mapping[str, Any], path: Path, calibration: CalibrationSize) -> Policy:
    key = f"policies.{name}"
    if "policy_id" in fields:
        message = f"{path}: {key}.policy_id: the table's name is the policy's id, remove the key"
        raise PolicyError(message)
    if "version" not in fields:
        message = f"{path}: {key}.version is missing: results contain it, and the result_id depends on it"
        raise PolicyError(message)
    try:
        policy = Policy.model_validate({"policy_id": name, **fields})
        return _settle(policy, calibration)
    except ValidationError as error:
        message = f"{path}: {describe_problems(error, key)}"
        raise PolicyError(message) from error
    except PolicyError as error:
        message = f"{path}: {key}.flag_false_alarm_rate: {error}"
        raise PolicyError(message) from error


def _settle(policy: Policy, calibration: CalibrationSize) -> Policy:
    settled, note = resolve_policy(policy, calibration)
    if note:
        log.warning("the calibration does not support a flag rate", why=note)
    return settled


def _shorten(name: str | None) -> str:
    return f"{name!r:.{_SHOWN_CHARACTERS}}"
