"""`bundle.json`: the types of a bundle's manifest."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ingest.detect import DetectorSpec
from ingest.spec import PreprocessSpec

SCHEMA_VERSION = 1
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


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


class Manifest(Section):
    """Everything the scorer must know of a bundle before it opens another file.

    `files` lists every other file of the folder; a file that is not listed has no place there.
    `golden_tolerance_nats` is how far the golden faces' log-likelihoods may lie from the recorded
    ones on another processor.
    """

    schema_version: Literal[1]
    bundle_id: str
    licence: str
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
