"""The targets of an export, and the folders of their results in the run folder."""

from dataclasses import dataclass, field
from pathlib import Path

from scorer.bundle.manifest import BatchProfile, Target
from training.recipes import Precision

# The precisions of each target.
PRECISIONS: dict[Target, tuple[Precision, ...]] = {
    "openvino": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8", "fp8"),
}
INPUT_TENSOR, OUTPUT_TENSOR = "crops", "features"


@dataclass(frozen=True, slots=True)
class Deployment:
    """An engine that computes features. A mixture and a calibration are valid for one engine only.

    Attributes:
        target: the runtime.
        precision: of the engine.
        batches: batch sizes of a TensorRT plan.
    """

    target: Target
    precision: Precision
    batches: BatchProfile = field(default_factory=BatchProfile)

    @property
    def graph(self) -> str:
        """The path of the network in a bundle."""
        return f"face_extractor/1/model.{'xml.xz' if self.target == 'openvino' else 'onnx'}"

    def results(self, run: Path) -> Path:
        """Return the folder of `fit.json`, `mixture.npz`, `calibration.npz` and all other results of this engine."""
        return run if self.target == "openvino" else run / f"{self.target}-{self.precision}"

    def engine(self, run: Path) -> Path:
        """Return the path of the engine's graph."""
        return self.results(run) / "engine" / self.precision / self.graph

    def describe(self) -> str:
        """Return the engine in words, for a card."""
        return f"{'OpenVINO' if self.target == 'openvino' else 'TensorRT'}, {self.precision}"
