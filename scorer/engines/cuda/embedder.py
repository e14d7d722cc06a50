"""Decode, crop, embed and weigh faces on a GPU: only likelihoods and a number for each crop's detail come back.

Each embedder queues its work on a stream of its own. Two of them (`share`), each in a thread, keep two batches in
flight: one is decoded while the other is in the network. Within a batch, DALI decodes the next faces while the
network works on the last.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ingest.dali_cuda import HW_DECODER_LOAD, DeviceCropper, Failures
from ingest.device import Kind
from ingest.probe import EncodedFace
from ingest.resampling import MIN_SIDE_PX, measure_high_bands
from scorer.engines.base import FeatureBatch
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.engines.cuda.engine import CudaEngine
from scorer.engines.cuda.faults import is_out_of_memory
from scorer.engines.cuda.mixture import DeviceMixture
from scorer.errors import BackendUnavailable
from scorer.mixture import Array, StackedMixture, round_nats
from scorer.model import Model

MAX_CROPS = 128


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFeatureBatch(FeatureBatch):
    """A batch whose features, of `stream.xp`, stay on the device.

    Attributes:
        device_mixture: weighs them there.
        place: where they are.
    """

    device_mixture: DeviceMixture
    stream: DeviceStream

    def log_likelihood(self, mixture: StackedMixture) -> NDArray[np.float64]:
        """See `FeatureBatch`; in single precision, 1e-3 nats from the CPU's.

        Raises:
            ValueError: `mixture` is not the one that the embedder was opened with.
        """
        if mixture is not self.device_mixture.source:
            message = "these features are weighed by the mixture of the model that their embedder was opened with"
            raise ValueError(message)
        with self.stream.entered():
            likelihoods = self.stream.bring_home(self.device_mixture.log_likelihood(self.features))
        return np.asarray(round_nats(likelihoods.astype(np.float64)))

    def on_host(self) -> FeatureBatch:
        """See `FeatureBatch`."""
        with self.stream.entered():
            return FeatureBatch(self.stream.bring_home(self.features), self.failures, self.high_band)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some faces of a call, in order: features and detail, on the device."""

    features: Array
    high_band: Array
    failures: Failures


class CudaEmbedder:
    """An `Embedder` on a GPU, or the same steps on a CPU (`device="cpu"`), as a rehearsal.

    Args:
        model: how faces are cut, and the mixture.
        engine: the network.
        threads: CPU threads that decode in parallel.
        device: where.
        max_crops: how many crops are in the decoder and in the network at once.
        hw_decoder_load: see `DeviceCropper`.

    Attributes:
        max_crops: the same, within what the engine takes; after the GPU had no memory for so many, half of it and less.
    """

    def __init__(  # noqa: PLR0913 - what it is made of, and two knobs to measure
        self,
        model: Model,
        engine: CudaEngine,
        threads: int,
        device: Kind,
        *,
        max_crops: int = MAX_CROPS,
        hw_decoder_load: float = HW_DECODER_LOAD,
    ) -> None:
        self._engine = engine
        self.max_crops = min(max_crops, engine.max_batch)
        self._open_place = partial(DeviceStream, device)
        self._open_cropper = partial(
            DeviceCropper, model.preprocess, threads, self.max_crops, device, hw_decoder_load=hw_decoder_load
        )
        self._place, self._cropper = self._open_place(), self._open_cropper()
        self._mixture = DeviceMixture(model.mixture, self._place.xp)

    def share(self) -> Self:
        """Return an embedder for another thread, over the same weights; its place and its decoder are its own."""
        other = copy(self)
        other._engine = self._engine.share()  # noqa: SLF001 - its own kind
        other._place, other._cropper = self._open_place(), self._open_cropper()  # noqa: SLF001 - as above
        return other

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row of features per face, on the device; see `Embedder`.

        Where the GPU lacks memory, batches are halved and stay so. A GPU that is lost ends the process
        (`scorer.engines.cuda.faults`).

        Raises:
            BackendUnavailable: there is no memory for a single face.
        """
        parts: list[_Part] = []
        done = 0
        with self._place.entered():
            while done < len(faces):
                some = faces[done : done + self.max_crops]
                try:
                    parts.append(self._embed_some(some))
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    self._take_less(error)
                else:
                    done += len(some)
            return self._join(faces, parts)

    def _embed_some(self, faces: Sequence[EncodedFace]) -> _Part:
        xp = self._place.xp
        crops, failures = self._cropper.crop(faces)
        features = self._engine.run(crops)
        high_band = xp.full(len(faces), xp.nan, xp.float32)
        if crops.shape[1] >= MIN_SIDE_PX:
            high_band = measure_high_bands(crops, xp)
        if failures:
            features[list(failures)] = xp.nan
        return _Part(features, high_band, failures)

    def _take_less(self, error: Exception) -> None:
        if self.max_crops == 1:
            message = f"the GPU has no memory for one face ({error}): other processes use it, see nvidia-smi"
            raise BackendUnavailable(message) from error
        self.max_crops //= 2
        self._place.free_memory()

    def _join(self, faces: Sequence[EncodedFace], parts: list[_Part]) -> FeatureBatch:
        xp, preprocess = self._place.xp, self._cropper.spec
        if not parts:
            nothing = xp.empty((0, len(self._mixture.source.centre)), xp.float32)
            return DeviceFeatureBatch(nothing, {}, np.empty(0, np.float32), self._mixture, self._place)
        failures: Failures = {}
        done = 0
        for part in parts:
            failures |= {done + row: failure for row, failure in part.failures.items()}
            done += len(part.features)
        high_band = np.array(self._place.bring_home(xp.concatenate([part.high_band for part in parts])))
        # A crop of fewer pixels than it has was itself enlarged: it lacks detail of its own making.
        enlarged = [min(face.window.width, face.window.height) < preprocess.size for face in faces]
        high_band[[stream for stream, small in enumerate(enlarged) if small or stream in failures]] = np.nan
        features = xp.concatenate([part.features for part in parts])
        return DeviceFeatureBatch(features, failures, high_band, self._mixture, self._place)
