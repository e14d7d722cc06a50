"""From a log-likelihood to a p-value to a decision.

The p-value is conformal: under exchangeability a photograph gets p <= a with probability at most a,
so a policy can state the false-alarm rate it wants instead of a raw likelihood.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ingest.provenance.statements import Statement
from scorer.errors import PolicyError
from scorer.messages import MAX_RULES, CalibratedBy, Decision, Message, PolicyFacts, Probability, StatementRule
from scorer.strata import Stratum

CONFIDENCE = 0.95  # of the interval that a supported false-alarm rate has


class Policy(Message):
    """Target false-alarm rates per face, and the smallest face that is scored.

    A face is flagged when its p-value is at most `flag_false_alarm_rate`, and sent to review when it is at most
    `review_false_alarm_rate`. A face whose visible short side is under `min_face_px` pixels is never scored and always
    goes to review. Where the detector finds the faces, a face that is under `min_face_px` and under the detector's own
    limit is reported only if the image has no larger face.

    `statements` raise the decision of an image that states that it was generated; without `provenance.enabled` they are
    refused.
    """

    policy_id: str = "default"
    version: str = "1"
    flag_false_alarm_rate: Probability = 0.01
    review_false_alarm_rate: Probability = 0.05
    min_face_px: float = Field(default=64, gt=0)
    statements: tuple[StatementRule, ...] = Field(default=(), max_length=MAX_RULES)

    @model_validator(mode="after")
    def _review_is_wider(self) -> "Policy":
        if not 0 < self.flag_false_alarm_rate <= self.review_false_alarm_rate:
            message = (
                f"policy {self.policy_id}: flag_false_alarm_rate {self.flag_false_alarm_rate} must be positive "
                f"and at most review_false_alarm_rate {self.review_false_alarm_rate}"
            )
            raise ValueError(message)
        return self

    def describe(self) -> PolicyFacts:
        """Return what a result states of this policy: all fields, because each one affects the decision."""
        return PolicyFacts(**self.model_dump())


def p_values(log_likelihoods: NDArray[np.floating], calibration: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (1 + number of held-out photographs at most this likely) / (n + 1) for each face.

    Args:
        log_likelihoods: [N] in nats; NaN stays NaN.
        calibration: [n], the held-out photographs' log-likelihoods in ascending order.
    """
    at_most = np.searchsorted(calibration, log_likelihoods, side="right")
    values = (1 + at_most) / (len(calibration) + 1)
    return np.where(np.isfinite(log_likelihoods), values, np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The log-likelihoods of held-out photographs' faces in nats, ascending.

    Attributes:
        pooled: [n], all of them.
        strata: [m] each, those of a stratum; a stratum that is missing had too few photographs.
    """

    pooled: NDArray[np.float64]
    strata: Mapping[Stratum, NDArray[np.float64]] = field(default_factory=dict)

    def p_values(
        self, log_likelihoods: NDArray[np.floating], strata: Sequence[Stratum]
    ) -> list[tuple[float, CalibratedBy]]:
        """Return the p-value of each face against the photographs of its stratum, or all if the stratum is missing.

        Args:
            log_likelihoods: [N] in nats; NaN stays NaN.
            strata: the stratum of each face.
        """
        values = p_values(log_likelihoods, self.pooled)
        for stratum in self.strata.keys() & set(strata):
            rows = np.array([each is stratum for each in strata])
            values[rows] = p_values(log_likelihoods[rows], self.strata[stratum])
        by = [CalibratedBy.STRATUM if each in self.strata else CalibratedBy.POOLED for each in strata]
        return list(zip(values.tolist(), by, strict=True))


def flagged_rank(count: int, rate: float) -> int:
    """Return how many of `count` held-out faces are at or below the threshold of `rate`.

    A face's p-value is (1 + held-out faces at most as likely) / (count + 1), see `p_values`. It is at
    most `rate` if the face is less likely than the held-out face of this rank.
    """
    rank = math.floor(rate * (count + 1))
    # The same division as in the p-value: 0.05 * 20 can round to either side of 1.
    return rank + 1 if (rank + 1) / (count + 1) <= rate else rank - (rank / (count + 1) > rate)


def decide_face(p_value: float | None, policy: Policy) -> Decision:
    """Return the decision for one face; a face without a finite p-value goes to review, never passes."""
    if p_value is None or not np.isfinite(p_value):
        return Decision.REVIEW
    if p_value <= policy.flag_false_alarm_rate:
        return Decision.FLAG
    return Decision.REVIEW if p_value <= policy.review_false_alarm_rate else Decision.PASS


def find_required(statements: Iterable[Statement], policy: Policy) -> tuple[Decision, Statement] | None:
    """Return the highest decision that the policy's rules require for an image, and the statement that requires it."""
    found = [(rule.at_least, each) for each in statements for rule in policy.statements if rule.applies(each)]
    return max(found, key=lambda pair: pair[0].rank, default=None)


def check_statement_rules(policy: Policy, *, read: bool) -> None:
    """Refuse rules for statements where none are read: they would never apply.

    Raises:
        ValueError: the policy has such rules, and `read` is false.
    """
    if policy.statements and not read:
        message = (
            f"policy {policy.policy_id}: statements has rules for what images state about their origin, which is not "
            "read: set provenance.enabled (UNLENSED_PROVENANCE__ENABLED=true), or remove the rules"
        )
        raise ValueError(message)


def photographs_needed(rate: float) -> int:
    """Return the least number of photographs with which a calibration supports the false-alarm rate `rate`.

    The 95 % interval of the rate's threshold has an order statistic as its lower end only if (1 - rate)^n, the
    probability that no photograph lies below the true threshold, is under 2.5 %.
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log1p(-rate)) if rate < 1 else 1


def supported_rate(photographs: int) -> float:
    """Return the lowest false-alarm rate that a calibration on `photographs` supports, rounded up to one digit."""
    lowest = -math.expm1(math.log((1 - CONFIDENCE) / 2) / photographs)
    unit = 10.0 ** -math.floor(math.log10(lowest))
    return math.ceil(lowest * unit) / unit


class CalibrationSize(NamedTuple):
    """The number of held-out faces of a calibration, and of the photographs that contain them.

    A calibration with strata supports the rates that the smallest of its parts supports: `photographs` is the least
    number of a part, `faces` likewise, and `stratum` the part with the fewest photographs; None means all photographs.
    """

    faces: int
    photographs: int
    stratum: Stratum | None = None


def resolve_policy(policy: Policy, calibration: CalibrationSize) -> tuple[Policy, str]:
    """Return the policy that applies with a calibration, and a sentence if that does not support the flag rate.

    A default flag rate is raised to the lowest rate that the calibration supports. A flag rate that was set is kept,
    although the calibration cannot prove it.

    Raises:
        PolicyError: the flag rate is below 1/(faces + 1), so that no face could ever be flagged; or the default rate is
            not supported, and no rate up to the review rate is.
    """
    faces, photographs, stratum = calibration
    requested, supported = policy.flag_false_alarm_rate, supported_rate(photographs)
    if photographs >= photographs_needed(requested):
        return policy, ""
    is_default = "flag_false_alarm_rate" not in policy.model_fields_set
    needs = (
        f"policy {policy.policy_id}: {'the default' if is_default else 'a'} flag rate of {100 * requested:g} % needs a "
        f"calibration on {photographs_needed(requested)} photographs, and this bundle's is on {photographs}"
        f"{f' of the stratum {stratum}' if stratum else ''}"
    )
    used = min(supported, policy.review_false_alarm_rate)
    if is_default and photographs >= photographs_needed(used):
        settled = policy.model_copy(update={"flag_false_alarm_rate": used})
        return settled, f"{needs}: faces are flagged at {100 * used:g} %"
    if is_default or requested < 1 / (faces + 1):
        message = (
            f"{needs}: set flag_false_alarm_rate to {supported:g} or more, review_false_alarm_rate at least as high, "
            "or calibrate on more photographs"
        )
        raise PolicyError(message)
    return policy, f"{needs}: more photographs than that may be flagged by mistake"
