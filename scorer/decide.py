"""From a log-likelihood to a p-value to a decision.

The p-value is conformal: under exchangeability a photograph gets p <= a with probability at most a,
so a policy can state the false-alarm rate it wants instead of a raw likelihood.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from scorer.messages import Decision, Message, Probability


class PolicyError(ValueError):
    """The policy asks what this bundle's calibration cannot support."""


class Policy(Message):
    """Target false-alarm rates per face, and the smallest face that is worth a score.

    A face is flagged when its p-value is at most `flag_false_alarm_rate`, sent to review at most
    `review_false_alarm_rate`. A face of whose short side less than `min_face_px` pixels lie in the image is never
    scored and always goes to review. Where faces are found and not given, faces below it and below the detector's own
    limit as well are told only where the image has no larger one.
    """

    policy_id: str = "default"
    version: str = "1"
    flag_false_alarm_rate: Probability = 0.01
    review_false_alarm_rate: Probability = 0.05
    min_face_px: float = Field(default=64, gt=0)

    @model_validator(mode="after")
    def _review_is_wider(self) -> "Policy":
        if not 0 < self.flag_false_alarm_rate <= self.review_false_alarm_rate:
            message = (
                f"policy {self.policy_id}: flag_false_alarm_rate {self.flag_false_alarm_rate} must be positive "
                f"and at most review_false_alarm_rate {self.review_false_alarm_rate}"
            )
            raise ValueError(message)
        return self


def p_values(log_likelihoods: NDArray[np.floating], calibration: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (1 + number of held-out photographs at most this likely) / (n + 1) for each face.

    Args:
        log_likelihoods: [N] in nats; NaN stays NaN.
        calibration: [n], the held-out photographs' log-likelihoods in ascending order.
    """
    at_most = np.searchsorted(calibration, log_likelihoods, side="right")
    values = (1 + at_most) / (len(calibration) + 1)
    return np.where(np.isfinite(log_likelihoods), values, np.nan)


def decide_face(p_value: float | None, policy: Policy) -> Decision:
    """Return the decision for one face; a face without a finite p-value goes to review, never passes."""
    if p_value is None or not np.isfinite(p_value):
        return Decision.REVIEW
    if p_value <= policy.flag_false_alarm_rate:
        return Decision.FLAG
    return Decision.REVIEW if p_value <= policy.review_false_alarm_rate else Decision.PASS


def check_policy(policy: Policy, calibration_size: int) -> None:
    """Refuse a policy whose rate is below what `calibration_size` photographs can resolve.

    Raises:
        PolicyError: the flag rate is under 1/(n+1), so that nothing could ever be flagged.
    """
    finest = 1 / (calibration_size + 1)
    if policy.flag_false_alarm_rate < finest:
        message = (
            f"policy {policy.policy_id} asks for a false-alarm rate of {policy.flag_false_alarm_rate:g}, but "
            f"{calibration_size} held-out photographs resolve {finest:.2g} at best: raise the rate or calibrate on more"
        )
        raise PolicyError(message)
