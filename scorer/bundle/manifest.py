"""`bundle.json`: the types of a bundle's manifest."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ingest.detect import DetectorSpec
from ingest.network_files import list_network_files
from ingest.pyramid import TILE_PX
from ingest.spec import PreprocessSpec
from scorer.decide import CalibrationSize, photographs_needed
from scorer.strata import Stratum

SCHEMA_VERSION = 2  # 1: another face detector
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Target = Literal["openvino", "tensorrt"]
Share = Annotated[float, Field(ge=0, le=1)]
MAX_GENERATORS = 200
# Limits of what a manifest may state, so that none of its numbers can exhaust memory or time.
MAX_FILES, MAX_BYTES, MAX_FILE_BYTES, MAX_FILE_NAME = 1000, 4 * 2**30, 2**31, 1024
MAX_FEATURES, MAX_COMPONENTS, MAX_CALIBRATION, MAX_TOLERANCE_NATS = 2**13, 2**12, 10**7, 1000
# Outside these ranges no crop can be cut and no pyramid can be built in finite time; NaN and infinity are outside.
_CROP_RANGES = {"size": (16, 2048), "margin": (0.1, 16), "mean": (-10, 10), "std": (1e-3, 10)}
_PYRAMID_RANGES = {
    "min_confidence": (1e-3, 1),
    "min_face_px": (1, 10_000),
    "network_face_px": (1, TILE_PX),
    "max_level_pixels": (TILE_PX**2, 10**8),
    "level_step": (1.1, 16),
    "tile_overlap_px": (0, TILE_PX // 2),
    "max_overlap": (1e-3, 1),
}
LEAST_STRATUM_PHOTOGRAPHS = photographs_needed(0.05)  # 72
MIXTURE, CALIBRATION, GOLDEN = "mixture.npz", "calibration.npz", "golden.npz"


class ManifestSection(BaseModel):
    """Part of a manifest: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileRecord(ManifestSection):
    """The size and SHA-256 of one file of the bundle; `licence` names its terms."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    licence: str


class Provenance(ManifestSection):
    """The origin of a bundle: enough to make it again."""

    created_at: str
    recipe: str
    data: dict[str, str]
    tools: dict[str, str]


class BatchProfile(ManifestSection):
    """The batch sizes of a plan, in crops: it is fastest at `opt`, and its memory grows with `max`."""

    min: Annotated[int, Field(ge=1)] = 1
    opt: Annotated[int, Field(ge=1)] = 64
    max: Annotated[int, Field(ge=1, le=4096)] = 256

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            message = f"the batches {self.min}, {self.opt} and {self.max} are not in ascending order"
            raise ValueError(message)
        return self


class PlanRule(ManifestSection):
    """How the plan of a GPU bundle is built: on the GPU and with the TensorRT version that serve it.

    Attributes:
        batches: the optimisation profile of the plan.
        command: builds it on a machine without Python, in the folder of the bundle.
        note: which TensorRT, and where.
        features_by: the engine that computed the features of the mixture and the calibration.
    """

    batches: BatchProfile
    command: str
    note: str
    features_by: str


class FlaggedShare(ManifestSection):
    """The number of faces with a p-value of at most `rate`, and the 95 % interval of their share."""

    rate: Annotated[float, Field(gt=0, le=1)]
    faces: Annotated[int, Field(ge=0)]
    low: Share
    high: Share


class EvaluationSample(ManifestSection):
    """Faces of an evaluation, and how many of them are flagged at each measured rate, highest rate first."""

    faces: Annotated[int, Field(gt=0)]
    flagged: Annotated[tuple[FlaggedShare, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Self:
        counts, rates = [each.faces for each in self.flagged], [each.rate for each in self.flagged]
        if max(counts) > self.faces or counts != sorted(counts, reverse=True) or rates != sorted(set(rates))[::-1]:
            message = f"of {self.faces} faces, {counts} cannot be those flagged at {rates}"
            raise ValueError(message)
        return self


class GeneratedEvaluationSample(EvaluationSample):
    """Generated faces, with their AUC against the photographs: as published, and with both in one file format."""

    auc: Share
    auc_one_format: Share


class Evaluation(ManifestSection):
    """The results of the evaluation of the bundle, so that a decision can be shown with its error rates.

    Attributes:
        measured_on: the day in ISO 8601.
        note: the data and the method.
        photographs: faces of photographs from sources that were not used for the bundle: flagged ones are false alarms.
        generated: generated faces by generator.
    """

    measured_on: str
    note: str
    photographs: EvaluationSample
    generated: Annotated[dict[str, GeneratedEvaluationSample], Field(max_length=MAX_GENERATORS)]

    @field_validator("generated")
    @classmethod
    def _can_be_shown_together(
        cls, generated: dict[str, GeneratedEvaluationSample]
    ) -> dict[str, GeneratedEvaluationSample]:
        for name in generated:
            if not name.isprintable():
                message = f"the generator's name {name!r} contains characters that do not print"
                raise ValueError(message)
        if len({tuple(each.rate for each in sample.flagged) for sample in generated.values()}) > 1:
            message = "the generators were not all measured at the same rates"
            raise ValueError(message)
        return generated


class StratumSize(ManifestSection):
    """The number of held-out faces of a stratum, and of the photographs that they or their originals are from."""

    faces: Annotated[int, Field(gt=0, le=MAX_CALIBRATION)]
    photographs: Annotated[int, Field(gt=0, le=MAX_CALIBRATION)]

    @model_validator(mode="after")
    def _photographs_have_faces(self) -> Self:
        if self.photographs > self.faces:
            message = f"{self.faces} calibration faces cannot be of {self.photographs} photographs"
            raise ValueError(message)
        return self


class Manifest(ManifestSection):
    """Everything that the scorer must know of a bundle before it opens another file.

    `files` lists every other file of the folder; a file that is not listed is refused.
    `target` states what runs the extractor: OpenVINO on a CPU, or TensorRT on a GPU, whose `plan` is built there and is
    not a file of the bundle. `golden_tolerance_nats` is the largest allowed difference between the golden faces'
    log-likelihoods on another processor and the recorded ones. Fields that bundles of earlier releases lack are
    optional: `evaluation`; `calibration_photographs`, the number of photographs that contain the `calibration_size`
    faces; and `calibration_strata`, the strata with a calibration of their own.
    """

    schema_version: Literal[2]
    bundle_id: str
    licence: str
    target: Target = "openvino"
    plan: PlanRule | None = None
    preprocess: PreprocessSpec
    detector: DetectorSpec
    extractor: str
    input_tensor: str
    output_tensor: str
    feature_size: Annotated[int, Field(gt=0, le=MAX_FEATURES)]
    precision: str
    mixture_components: Annotated[int, Field(gt=0, le=MAX_COMPONENTS)]
    calibration_id: str
    calibration_size: Annotated[int, Field(gt=0, le=MAX_CALIBRATION)]
    calibration_photographs: Annotated[int | None, Field(gt=0)] = None
    calibration_strata: dict[Stratum, StratumSize] = Field(default_factory=dict)
    golden_tolerance_nats: Annotated[float, Field(gt=0, le=MAX_TOLERANCE_NATS)]
    provenance: Provenance
    evaluation: Evaluation | None = None
    files: Annotated[dict[str, FileRecord], Field(max_length=MAX_FILES)]

    @field_validator("preprocess", "detector")
    @classmethod
    def _possible(cls, spec: PreprocessSpec | DetectorSpec) -> PreprocessSpec | DetectorSpec:
        ranges = _CROP_RANGES if isinstance(spec, PreprocessSpec) else _PYRAMID_RANGES
        for name, (low, high) in ranges.items():
            value = getattr(spec, name)
            if not all(low <= each <= high for each in (value if isinstance(value, tuple) else (value,))):
                message = f"{name} is {value}, not from {low:g} to {high:g}"
                raise ValueError(message)
        return spec

    @field_validator("files")
    @classmethod
    def _inside_the_folder(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            path = PurePosixPath(name)
            plain = len(name) <= MAX_FILE_NAME and str(path) == name and name.isprintable()
            if not plain or path.is_absolute() or ".." in path.parts:
                message = f"file name {name!r:.100} is not a plain path inside the bundle"
                raise ValueError(message)
        if sum(record.bytes for record in files.values()) > MAX_BYTES:
            message = f"more than {MAX_BYTES} bytes"
            raise ValueError(message)
        return files

    @model_validator(mode="after")
    def _plan_of_its_target(self) -> Self:
        if (self.plan is None) != (self.target == "openvino"):
            message = f"a bundle for {self.target} states {'no ' if self.plan is None else 'a '}plan"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _lists_what_it_names(self) -> Self:
        extractor = map(str, list_network_files(PurePosixPath(self.extractor)))
        for name in (*extractor, *self.detector.files, MIXTURE, CALIBRATION, GOLDEN):
            if name not in self.files:
                message = f"{name!r} is not among its files, so its content would not be checked"
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _photographs_have_faces(self) -> Self:
        if (self.calibration_photographs or 0) > self.calibration_size:
            message = (
                f"{self.calibration_size} calibration faces cannot be of {self.calibration_photographs} photographs"
            )
            raise ValueError(message)
        return self

    @field_validator("calibration_strata")
    @classmethod
    def _enough_photographs(cls, strata: dict[Stratum, StratumSize]) -> dict[Stratum, StratumSize]:
        for stratum, size in strata.items():
            if size.photographs < LEAST_STRATUM_PHOTOGRAPHS:
                message = f"{stratum} has {size.photographs} photographs, fewer than {LEAST_STRATUM_PHOTOGRAPHS}"
                raise ValueError(message)
        return strata

    @property
    def calibration(self) -> CalibrationSize:
        """The size of the smallest part of the calibration; one photograph per face if the bundle does not state it."""
        pooled = CalibrationSize(self.calibration_size, self.calibration_photographs or self.calibration_size)
        strata = self.calibration_strata.items()
        parts = [pooled, *(CalibrationSize(size.faces, size.photographs, stratum) for stratum, size in strata)]
        smallest = min(parts, key=lambda part: part.photographs)
        return smallest._replace(faces=min(part.faces for part in parts))
