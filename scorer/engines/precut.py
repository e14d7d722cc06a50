"""Images that an engine with a decoder of its own must not decode: the sandbox cuts their faces.

HEIC, AVIF and JPEG XL, which it cannot decode. On a GPU also a JPEG that is not known to be sound: nvJPEG fills damaged
areas without a warning, so that a face would be scored that the CPU refuses. The detector's decode finds out. Where
boxes are given there is none, and a check alone is hardly cheaper than the cut (ms of CPU: 0.8 and 1.4 at 640 x 480
pixels, 5.6 and 3.7 at 1920 x 1080, 21 and 14 at 12 megapixels).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self, cast

import numpy as np

from ingest.crops import encode_crop, read_crop
from ingest.decode_batches import needs_sandbox
from ingest.probe import EncodedFace, ImageInfo
from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from scorer.engines.base import Embedder, FeatureBatch, SharedEmbedder


class PrecutEmbedder:
    """An `Embedder` that gives `engine` the faces of such images as crops in PNG, and all others unchanged.

    Args:
        engine: on a GPU, or a Triton server.
        sandbox: cuts the faces.
        on_gpu: whether the engine decodes on a GPU.
    """

    def __init__(self, engine: Embedder, sandbox: Sandbox, *, on_gpu: bool) -> None:
        self._engine, self._sandbox, self._on_gpu = engine, sandbox, on_gpu

    def share(self) -> Self:
        """See `SharedEmbedder`; `engine` must be one."""
        return type(self)(cast("SharedEmbedder", self._engine).share(), self._sandbox, on_gpu=self._on_gpu)

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row of features per face; see `Embedder`. A face that cannot be cut has those of a black crop."""
        rows = [row for row, face in enumerate(faces) if self._is_cut_here(face.info)]
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

    def _is_cut_here(self, info: ImageInfo) -> bool:
        unsure = self._on_gpu and info.media_type == "image/jpeg" and not info.sound
        return unsure or needs_sandbox(info)
