"""The seam between scoring and engines: encoded faces in, features out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ingest.probe import EncodedFace
from ingest.reasons import Unscorable
from scorer.mixture import StackedMixture, log_likelihood


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBatch:
    """Features of a batch of faces, in this process's memory; `scorer.cuda` has them on a GPU.

    Attributes:
        features: [N, D] float32, a row of NaN for each failed face.
        failures: why a row failed, by row.
        high_band: [N] float32, how much fine detail each crop has (`ingest.resampling`); NaN where not measured.
    """

    features: NDArray[np.float32]
    failures: Mapping[int, Unscorable]
    high_band: NDArray[np.float32]

    def log_likelihood(self, mixture: StackedMixture) -> NDArray[np.float64]:
        """Return [N] in nats, computed where the features are; a row that is not finite gives NaN."""
        return np.asarray(log_likelihood(self.features, mixture), dtype=np.float64)

    def on_host(self) -> "FeatureBatch":
        """Return the batch with its features as NumPy's."""
        return self


class Embedder(Protocol):
    """Turns encoded faces into features, in order; a bad face costs only its own row."""

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row per face.

        Raises:
            BackendUnavailable: no face of the batch has an answer now; asking again is safe.
        """
        ...


class SharedEmbedder(Embedder, Protocol):
    """An `Embedder` in this process; one belongs to one thread at a time."""

    def share(self) -> Self:
        """Return an embedder for another thread, over the same network."""
        ...
