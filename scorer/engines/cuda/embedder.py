"""Decodes, crops and embeds faces on a GPU and scores them there: only likelihoods and detail measures are copied back.

Each embedder queues its work on its own stream. Two embedders (`share`), each in a thread, keep two batches in flight:
one is decoded while the other is in the network. Within a batch, DALI decodes the next faces while the network runs on
the last.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from ingest.dali_cuda import DeviceCropper, Failures
from ingest.device import Kind
from ingest.probe import EncodedFace
from ingest.resampling import MIN_SIDE_PX, measure_high_bands
from scorer.engines.base import FeatureBatch
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.engines.cuda.engine import CudaEngine
from scorer.engines.cuda.faults import is_out_of_memory
from scorer.engines.cuda.mixture import DeviceFeatureBatch, DeviceMixture
from scorer.errors import BackendUnavailable
from scorer.mixture import Array
from scorer.model import Model

MAX_CROPS = 128


@dataclass(frozen=True, slots=True, eq=False)
class _PartialBatch:
    """Consecutive faces of one call: features and detail, on the device."""

    features: Array
    high_band: Array
    failures: Failures


class CudaEmbedder:
    """An `Embedder` on a GPU; in tests the same steps run on a CPU (`device="cpu"`).

    Args:
        model: states how faces are cropped, and holds the mixture.
        engine: the network.
        threads: CPU threads that decode in parallel.
        device: of all steps.
        max_crops: the most crops that are decoded and embedded at once.

    Attributes:
        max_crops: the same, at most the engine's `max_batch`; halved each time that the GPU lacks memory for so many.
    """

    def __init__(
        self, model: Model, engine: CudaEngine, threads: int, device: Kind, *, max_crops: int = MAX_CROPS
    ) -> None:
        self._engine = engine
        self.max_crops = min(max_crops, engine.max_batch)
        self._open_stream = partial(DeviceStream, device)
        self._open_cropper = partial(DeviceCropper, model.preprocess, threads, self.max_crops, device)
        self._stream, self._cropper = self._open_stream(), self._open_cropper()
        self._mixture = DeviceMixture(model.mixture, self._stream.xp)

    def share(self) -> Self:
        """Return an embedder for another thread with the same weights, and with its own stream and decoder."""
        other = copy(self)
        other._engine = self._engine.share()  # noqa: SLF001 - its own class
        other._stream, other._cropper = self._open_stream(), self._open_cropper()  # noqa: SLF001 - as above
        return other

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row of features per face, on the device; see `Embedder`.

        Where the GPU lacks memory, batches are halved from then on. The process exits if the GPU is lost
        (`scorer.engines.cuda.faults`).

        Raises:
            BackendUnavailable: the GPU has no memory for a single face.
        """
        parts: list[_PartialBatch] = []
        done = 0
        with self._stream.activate():
            while done < len(faces):
                batch = faces[done : done + self.max_crops]
                try:
                    parts.append(self._embed_batch(batch))
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    self._halve_batches(error)
                else:
                    done += len(batch)
            return self._join_parts(faces, parts)

    def _embed_batch(self, faces: Sequence[EncodedFace]) -> _PartialBatch:
        xp = self._stream.xp
        crops, failures = self._cropper.crop(faces)
        features = self._engine.run(crops)
        high_band = xp.full(len(faces), xp.nan, xp.float32)
        if crops.shape[1] >= MIN_SIDE_PX:
            high_band = measure_high_bands(crops, xp)
        if failures:
            features[list(failures)] = xp.nan
        return _PartialBatch(features, high_band, failures)

    def _halve_batches(self, error: Exception) -> None:
        if self.max_crops == 1:
            message = f"the GPU has no memory for one face ({error}): other processes use it, see nvidia-smi"
            raise BackendUnavailable(message) from error
        self.max_crops //= 2
        self._stream.free_memory()

    def _join_parts(self, faces: Sequence[EncodedFace], parts: list[_PartialBatch]) -> FeatureBatch:
        xp, preprocess = self._stream.xp, self._cropper.spec
        if not parts:
            empty = xp.empty((0, len(self._mixture.source.centre)), xp.float32)
            return DeviceFeatureBatch(empty, {}, np.empty(0, np.float32), self._mixture, self._stream)
        failures: Failures = {}
        done = 0
        for part in parts:
            failures |= {done + row: failure for row, failure in part.failures.items()}
            done += len(part.features)
        high_band = np.array(self._stream.copy_to_host(xp.concatenate([part.high_band for part in parts])))
        # A window smaller than a crop was enlarged: the crop has no fine detail because of that.
        enlarged = [min(face.window.width, face.window.height) < preprocess.size for face in faces]
        high_band[[row for row, small in enumerate(enlarged) if small or row in failures]] = np.nan
        features = xp.concatenate([part.features for part in parts])
        return DeviceFeatureBatch(features, failures, high_band, self._mixture, self._stream)
