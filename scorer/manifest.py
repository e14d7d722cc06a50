"""`bundle.json`: the types of a bundle's manifest."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ingest.detect import DetectorSpec
from ingest.spec import PreprocessSpec

SCHEMA_VERSION = 1
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Target = Literal["openvino", "tensorrt"]


class Section(BaseModel):
    """Part of a manifest: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(Section):
    """One file of the bundle, by size and SHA-256; `licence` names the terms it came under."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]
    licence: str


class Provenance(Section):
    """Where a bundle came from: enough to make it again."""

    created_at: str
    recipe: str
    data: dict[str, str]
    tools: dict[str, str]


class BatchProfile(Section):
    """The batches that a plan takes, in crops; it is fastest at `opt`. What they need of memory grows with `max`."""

    min: Annotated[int, Field(ge=1)] = 1
    opt: Annotated[int, Field(ge=1)] = 64
    max: Annotated[int, Field(ge=1, le=4096)] = 256

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            message = f"the batches {self.min}, {self.opt} and {self.max} are not in ascending order"
            raise ValueError(message)
        return self


class PlanRule(Section):
    """How a GPU bundle's plan comes to be: on the GPU that serves it, by the TensorRT that serves it.

    Attributes:
        batches: the plan's optimisation profile.
        command: what builds it where there is no Python, run in the bundle's folder.
        note: which TensorRT, and where.
        features_by: what computed the features that mixture and calibration were fitted on.
    """

    batches: BatchProfile
    command: str
    note: str
    features_by: str


class Manifest(Section):
    """Everything the scorer must know of a bundle before it opens another file.

    `files` lists every other file of the folder; a file that is not listed has no place there.
    `target` says what runs the extractor: OpenVINO on a CPU, or on a GPU TensorRT, whose `plan` is built there and is
    no file of the bundle. `golden_tolerance_nats` is how far the golden faces' log-likelihoods may lie from the
    recorded ones on another processor.
    """

    schema_version: Literal[1]
    bundle_id: str
    licence: str
    target: Target = "openvino"
    plan: PlanRule | None = None
    preprocess: PreprocessSpec
    detector: DetectorSpec
    extractor: str
    input_tensor: str
    output_tensor: str
    feature_size: Annotated[int, Field(gt=0)]
    precision: str
    mixture_components: Annotated[int, Field(gt=0)]
    calibration_id: str
    calibration_size: Annotated[int, Field(gt=0)]
    golden_tolerance_nats: Annotated[float, Field(gt=0)]
    provenance: Provenance
    files: dict[str, FileRecord]

    @field_validator("files")
    @classmethod
    def _inside_the_folder(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or str(path) != name:
                message = f"file name {name!r} is not a plain path inside the bundle"
                raise ValueError(message)
        return files

    @model_validator(mode="after")
    def _plan_of_its_target(self) -> Self:
        if (self.plan is None) != (self.target == "openvino"):
            message = f"a bundle for {self.target} states {'no ' if self.plan is None else 'a '}plan"
            raise ValueError(message)
        return self
