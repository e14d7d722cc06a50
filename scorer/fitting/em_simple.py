"""The EM steps for one covariance that all components share (tied), and for diagonal covariances.

Both take a fraction of the time of full covariances, so they always run in double precision.

Shape suffixes: N faces, D features, K components.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scorer.fitting.em_shared import (
    Array,
    FeatureSteps,
    Parameters,
    SingularCovariance,
    blocks,
    factorise,
    normalise_weights,
    sum_faces,
    to_host,
)


@dataclass(eq=False)
class CentredSteps(FeatureSteps):
    """Base class of both kinds: features are centred on their mean, so that differences of squares lose no digits.

    Attributes:
        precisions: double.
    """

    precisions: ClassVar[tuple[type[np.floating[Any]], ...]] = (np.float64,)

    def __post_init__(self) -> None:
        self._centre = self.features.mean(axis=0, dtype=np.float64)

    def _block(self, block: slice) -> Array:
        """Return the centred features of a block in double precision."""
        return self.features[block] - self._centre

    def _average(self, responsibilities_NK: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the faces [K] and the means [K, D] of centred features."""
        faces = sum_faces(responsibilities_NK)
        totals = sum(responsibilities_NK[block].T @ self._block(block) for block in blocks(len(self.features)))
        return faces, to_host(totals) / faces[:, None]


@dataclass(eq=False)
class TiedSteps(CentredSteps):
    """`scorer.fitting.em.EmSteps` for one covariance [D, D]; the scatter matrix is computed once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        total = sum((part := self._block(block)).T @ part for block in blocks(len(self.features)))
        self._scatter = to_host(total)

    def maximise(self, responsibilities_NK: Array, dtype: type[np.floating[Any]]) -> Parameters:  # noqa: ARG002 - always double
        """Return the parameters that explain the features best under these responsibilities."""
        faces, means = self._average(responsibilities_NK)
        covariance = (self._scatter - (faces[:, None] * means).T @ means) / faces.sum()
        covariance[range(len(covariance)), range(len(covariance))] += self.variance_added
        return Parameters(normalise_weights(faces), means + to_host(self._centre), covariance)

    def expect(self, parameters: Parameters, dtype: type[np.floating[Any]]) -> Array:  # noqa: ARG002 - always double
        """Return [N, K]: log weight + log density."""
        xp, count, (components, size) = self.xp, len(self.features), parameters.means.shape
        lower, inverse = factorise(parameters.covariances, count)
        means = xp.asarray((parameters.means - to_host(self._centre)) @ inverse)
        factor = xp.asarray(inverse)
        constants = np.log(parameters.weights) - np.log(np.diagonal(lower)).sum() - size / 2 * math.log(2 * math.pi)
        offsets = xp.asarray(constants) - (means**2).sum(axis=1) / 2
        joint = xp.empty((count, components))
        for block in blocks(count):
            white = self._block(block) @ factor
            joint[block] = offsets + white @ means.T - xp.einsum("nd,nd->n", white, white)[:, None] / 2
        return joint


class DiagonalSteps(CentredSteps):
    """`scorer.fitting.em.EmSteps` for covariances [K, D]."""

    def maximise(self, responsibilities_NK: Array, dtype: type[np.floating[Any]]) -> Parameters:  # noqa: ARG002 - always double
        """Return the parameters that explain the features best under these responsibilities."""
        faces, means = self._average(responsibilities_NK)
        squares = sum(responsibilities_NK[block].T @ self._block(block) ** 2 for block in blocks(len(self.features)))
        variances = to_host(squares) / faces[:, None] - means**2 + self.variance_added
        return Parameters(normalise_weights(faces), means + to_host(self._centre), variances)

    def expect(self, parameters: Parameters, dtype: type[np.floating[Any]]) -> Array:  # noqa: ARG002 - always double
        """Return [N, K]: log weight + log density.

        Raises:
            SingularCovariance: a feature does not vary within a component.
        """
        xp, count, (components, size) = self.xp, len(self.features), parameters.means.shape
        if parameters.covariances.min() <= 0:
            message = "a feature does not vary within a component: raise variance_floor or variance_added"
            raise SingularCovariance(message)
        precisions, means = 1 / parameters.covariances, parameters.means - to_host(self._centre)
        constants = (
            np.log(parameters.weights)
            - np.log(parameters.covariances).sum(axis=1) / 2
            - size / 2 * math.log(2 * math.pi)
            - (means**2 * precisions).sum(axis=1) / 2
        )
        linear, quadratic = xp.asarray((means * precisions).T), xp.asarray(precisions.T / 2)
        joint = xp.empty((count, components))
        for block in blocks(count):
            part = self._block(block)
            joint[block] = xp.asarray(constants) + part @ linear - part**2 @ quadratic
        return joint
