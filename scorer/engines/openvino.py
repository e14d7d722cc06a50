"""The engine on a CPU: OpenVINO in this process; the sandbox decodes and cuts the faces."""

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ingest.device import DeviceUnavailable
from ingest.openvino_core import compile_network, ov, read_network
from ingest.probe import EncodedFace
from ingest.reasons import Unscorable
from ingest.resampling import MIN_SIDE_PX, measure_high_band
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle
from scorer.engines.base import FeatureBatch
from scorer.errors import BundleMismatch

QUEUED_CROPS = 64
ENGINE_NAME = f"OpenVINO {ov.__version__.split('-')[0]}"


class OpenVinoExtractor:
    """The bundle's network on the CPU: uint8 crops in, FP32 features out.

    Each crop is one inference request, and as many are in flight as there are cores: the features of a face cannot
    depend on other faces, and on a CPU this is at most 5 % slower than batches of 4 or 16 (EfficientNet-Lite0, int8:
    239 against 251 and 244 crops per core-second).

    Args:
        model: the network's XML, also compressed by xz (.xml.xz); its weights are in the same folder.
        feature_size: the expected number of features.
        threads: CPU threads.
        read: returns the bytes of a file; a bundle checks them.

    Raises:
        BundleMismatch: the file is not a network for crops, or has another number of features.
        DeviceUnavailable: see `require_instructions`.
    """

    def __init__(
        self, model: Path, feature_size: int, threads: int, read: Callable[[Path], bytes] = Path.read_bytes
    ) -> None:
        try:
            network = read_network(model, read)
            (crops,), (features,) = network.inputs, network.outputs
            self.crop_shape = tuple(dimension.get_length() for dimension in list(crops.partial_shape)[1:])
            found = features.partial_shape[-1].get_length()
            network.reshape([1, *self.crop_shape])
            self._compiled = compile_network(
                network,
                {
                    "PERFORMANCE_HINT": "THROUGHPUT",
                    "NUM_STREAMS": threads,
                    "INFERENCE_NUM_THREADS": threads,
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except DeviceUnavailable:  # is a RuntimeError, too
            raise
        except (RuntimeError, ValueError) as error:  # the second one: a damaged file, more than one input or output
            message = f"{model} is not a network that OpenVINO can read: copy the whole bundle again"
            raise BundleMismatch(message) from error
        if found != feature_size:
            message = f"{model} gives {found} features, the manifest states {feature_size}"
            raise BundleMismatch(message)
        self.feature_size = feature_size
        self._open_queue()

    def share(self) -> Self:
        """Return an extractor for another thread: the same network and cores, its own queue."""
        other = copy(self)
        other._open_queue()  # noqa: SLF001 - of the same class
        return other

    def _open_queue(self) -> None:
        self._queue = ov.AsyncInferQueue(self._compiled, QUEUED_CROPS)
        self._queue.set_callback(_store)

    def start(self, crops: Sequence[NDArray[np.uint8]], rows: Sequence[int], features: NDArray[np.float32]) -> None:
        """Queue `crops` ([size, size, 3] each); row `rows[i]` of `features` is complete after `wait`."""
        for crop, row in zip(crops, rows, strict=True):
            self._queue.start_async({0: crop[None]}, (features, row))

    def wait(self) -> None:
        """Wait for all queued crops."""
        self._queue.wait_all()


def _store(request: Any, target: tuple[NDArray[np.float32], int]) -> None:  # noqa: ANN401 - OpenVINO's request is untyped
    features, row = target
    features[row] = request.get_output_tensor(0).data[0]


class LocalEmbedder:
    """An `Embedder` in this process; the sandbox cuts the next crops while the network runs.

    Only one thread at a time may use an embedder.
    """

    def __init__(self, bundle: Bundle, threads: int, sandbox: Sandbox) -> None:
        self._extractor = OpenVinoExtractor(bundle.extractor, bundle.manifest.feature_size, threads, bundle.read)
        side = bundle.model.preprocess.size
        if self._extractor.crop_shape != (side, side, 3):
            message = (
                f"{bundle.extractor} takes {self._extractor.crop_shape}, the manifest's crops are {(side, side, 3)}"
            )
            raise BundleMismatch(message)
        self._sandbox = sandbox

    def share(self) -> Self:
        """Return an embedder of the same network for another thread."""
        other = copy(self)
        other._extractor = self._extractor.share()  # noqa: SLF001 - of the same class
        return other

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row of features per face; see `Embedder`.

        Raises:
            SandboxBroken, SandboxClosed: see `Sandbox.crop`.
        """
        features = np.full((len(faces), self._extractor.feature_size), np.nan, dtype=np.float32)
        high_band = np.full(len(faces), np.nan, dtype=np.float32)
        failures: dict[int, Unscorable] = {}
        for row, crop in self._sandbox.crop(faces):
            if isinstance(crop, Unscorable):
                failures[row] = crop
                continue
            self._extractor.start([crop], [row], features)
            window = faces[row].window
            if min(window.width, window.height) >= len(crop) >= MIN_SIDE_PX:
                high_band[row] = measure_high_band(crop)  # while the network runs
        self._extractor.wait()
        return FeatureBatch(features, failures, high_band)
