"""What an evaluation needs of face crops, whether they lie in memory or on disk."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Crop = NDArray[np.uint8]
Alteration = Callable[[Crop, int], Crop]
"""From a crop [S, S, 3] and its place in the set to the altered crop of the same shape."""


class Crops(Protocol):
    """[N, S, S, 3] uint8, read a few at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.intp], /) -> Crop: ...


class Photographs(Protocol):
    """Faces of photographs; `training.data.shards.FaceSet` is one.

    Attributes:
        crops: [N, S, S, 3] uint8.
        photos: [N] name of the photograph.
        sources: [N] source of the photograph.
    """

    @property
    def crops(self) -> Crops:
        """The faces."""

    @property
    def photos(self) -> NDArray[np.str_]:
        """Where each comes from."""

    @property
    def sources(self) -> NDArray[np.str_]:
        """Whose photograph it is."""
