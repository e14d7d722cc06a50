"""Compute the features of a GPU bundle's graph on a CPU: onnxruntime executes the graph node by node."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.engines.onnx_runtime import onnxruntime
from scorer.errors import BundleMismatch
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR


class OnnxExtractor:
    """Executes a graph on the CPU with the interface of `OpenVinoExtractor`: uint8 crops in, FP32 features out.

    No nodes are fused: values of an FP16 graph are rounded to FP16 after each node, sums are FP32, and
    quantise/dequantise pairs are executed separately. A GPU fuses nodes and so rounds less often.

    Raises:
        BundleMismatch: the file is no network, or has another number of features.
    """

    def __init__(self, model: Path, feature_size: int, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            message = f"{model} is no network that onnxruntime can read: export it again"
            raise BundleMismatch(message) from error
        found = self._session.get_outputs()[0].shape[-1]
        if found != feature_size:
            message = f"{model} has {found} features, {feature_size} are expected"
            raise BundleMismatch(message)
        self.feature_size = feature_size

    def start(self, crops: Sequence[NDArray[np.uint8]], rows: Sequence[int], features: NDArray[np.float32]) -> None:
        """Fill row `rows[i]` of `features` with those of `crops[i]`, [size, size, 3]."""
        features[rows] = self._session.run([OUTPUT_TENSOR], {INPUT_TENSOR: np.stack(crops)})[0]

    def wait(self) -> None:
        """Return at once: nothing is queued."""


def describe_runtime() -> str:
    """Return the runtime of the features in words, for a manifest."""
    return f"onnxruntime {onnxruntime.__version__} on a CPU, node by node, rounded to the graph's types, sums in FP32"
