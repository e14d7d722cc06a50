"""The interface of engines: encoded faces in, features out."""

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
    """Features of a batch of faces, in the memory of this process; `scorer.engines.cuda` keeps them on a GPU.

    Attributes:
        features: [N, D] float32, a row of NaN for each failed face.
        failures: the reason of each failed row, by row.
        high_band: [N] float32, the share of fine detail of each crop (`ingest.resampling`); NaN if not measured.
    """

    features: NDArray[np.float32]
    failures: Mapping[int, Unscorable]
    high_band: NDArray[np.float32]

    def log_likelihood(self, mixture: StackedMixture) -> NDArray[np.float64]:
        """Return [N] in nats, computed on the device of the features; a row that is not finite gives NaN."""
        return np.asarray(log_likelihood(self.features, mixture), dtype=np.float64)

    def on_host(self) -> "FeatureBatch":
        """Return the batch with its features as NumPy arrays."""
        return self


class Embedder(Protocol):
    """Turns encoded faces into features, in order; a bad face affects only its own row."""

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row per face.

        Raises:
            BackendUnavailable: the engine does not answer now; a retry is safe.
        """
        ...


class SharedEmbedder(Embedder, Protocol):
    """An `Embedder` in this process; only one thread at a time may use it."""

    def share(self) -> Self:
        """Return an embedder of the same network for another thread."""
        ...
