"""Which mixtures are compared, and how each is fitted."""

from dataclasses import dataclass
from typing import Literal

Covariance = Literal["full", "tied", "diag"]


@dataclass(frozen=True, slots=True)
class MixtureShape:
    """A candidate mixture: kind of covariance, number of components, and shrinkage of the correlations (0 to 1)."""

    covariance: Covariance
    components: int
    shrinkage: float = 0.0


@dataclass(frozen=True, slots=True)
class MixtureRule:
    """How the mixture is fitted.

    Attributes:
        shapes: candidates, compared by the likelihood of held-out sources; a single candidate is fitted directly.
        role_sets: candidate sets of roles to fit on, compared in the same way.
        variance_floor: added to every variance, as a share of the mean variance.
        variance_added: added to every variance, as an absolute value (scikit-learn's `reg_covar`).
        seed: of the initialisation.
        copies: whether the mixture is fitted on reduced and compressed copies of the faces, too.
    """

    shapes: tuple[MixtureShape, ...] = (
        *(MixtureShape("diag", components) for components in (1, 2, 4, 8)),
        *(MixtureShape("full", 1, shrinkage) for shrinkage in (0.05, 0.1, 0.2, 0.3)),
    )
    role_sets: tuple[tuple[str, ...], ...] = (("fit",), ("fit", "train"))
    variance_floor: float = 1e-2
    variance_added: float = 0.0
    seed: int = 2024
    copies: bool = False
