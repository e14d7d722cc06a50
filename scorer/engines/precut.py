"""HEIC, AVIF and JPEG XL for engines that decode images themselves, but not these: the sandbox cuts their faces."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self, cast

import numpy as np

from ingest.crops import encode_crop, read_crop
from ingest.decode_batches import needs_sandbox
from ingest.probe import EncodedFace
from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from scorer.engines.base import Embedder, FeatureBatch, SharedEmbedder


class PrecutEmbedder:
    """An `Embedder` that gives `engine` the faces of HEIC, AVIF and JPEG XL as crops in PNG, and all others unchanged.

    Args:
        engine: on a GPU, or a Triton server.
        sandbox: cuts the faces.
    """

    def __init__(self, engine: Embedder, sandbox: Sandbox) -> None:
        self._engine, self._sandbox = engine, sandbox

    def share(self) -> Self:
        """See `SharedEmbedder`; `engine` must be one."""
        return type(self)(cast("SharedEmbedder", self._engine).share(), self._sandbox)

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row of features per face; see `Embedder`. A face that cannot be cut has those of a black crop."""
        rows = [row for row, face in enumerate(faces) if needs_sandbox(face.info)]
        if not rows:
            return self._engine.embed(faces)
        sent, failures, unmeasured = list(faces), dict[int, Unscorable](), list[int]()
        for number, cut in self._sandbox.crop([faces[row] for row in rows]):
            row = rows[number]
            if isinstance(cut, Unscorable):
                failures[row] = cut
            crop = self._sandbox.blank_crop if isinstance(cut, Unscorable) else cut
            if min(faces[row].window.width, faces[row].window.height) < len(crop):
                unmeasured.append(row)  # it was enlarged, which the engine cannot see
            sent[row] = read_crop(encode_crop(crop))
        batch = self._engine.embed(sent)
        high_band = np.array(batch.high_band)
        high_band[[*unmeasured, *failures]] = np.nan
        return replace(batch, failures={**batch.failures, **failures}, high_band=high_band)
