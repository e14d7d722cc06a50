"""Read, check and write a bundle: the folder that training makes and that serving mounts.

Nothing here can run code from a bundle: manifests are JSON, arrays are `.npz` read with
`allow_pickle=False`, the network is an OpenVINO or an ONNX graph.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.spec import FaceBox
from scorer.embed import Embedder, FeatureBatch
from scorer.manifest import SCHEMA_VERSION, FileRecord, Manifest
from scorer.messages import describe_problems
from scorer.mixture import GaussianMixture, round_nats, stack_mixture
from scorer.model import Model

MANIFEST, SIGNATURE = "bundle.json", "bundle.json.sig"  # the second one is optional: `scorer.trust`
PLAN_FILE, BUILD_FILE = "face_extractor/1/model.plan", "face_extractor/1/build.json"
# Made beside a GPU bundle's graph by the machine that serves (`scorer.plan`); a killed build leaves a partial one.
BUILT_FILES = frozenset({PLAN_FILE, BUILD_FILE, f"{PLAN_FILE}.partial", f"{BUILD_FILE}.partial"})
MAX_MANIFEST_BYTES = 1 << 20
PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy"})


class BundleMismatch(Exception):
    """The bundle is not what it says it is, or not for this version: refuse to start."""


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A verified bundle: its folder, its manifest and the model facts read from it."""

    folder: Path
    manifest: Manifest
    model: Model

    @property
    def extractor(self) -> Path:
        """The network's file."""
        return self.folder / self.manifest.extractor


@dataclass(frozen=True, slots=True, eq=False)
class GoldenFaces:
    """Faces with known answers, sent through the live engine before it is trusted.

    Attributes:
        images: one encoded picture per face.
        boxes: [G, 4] as x, y, width, height in upright pixels.
        features: [G, D] float32 as the exported engine gave them.
        log_likelihoods: [G] in nats.
    """

    images: tuple[bytes, ...]
    boxes: NDArray[np.float64]
    features: NDArray[np.float32]
    log_likelihoods: NDArray[np.float64]

    def first(self, faces: int | None) -> "GoldenFaces":
        """Return the first `faces` of them; all if None."""
        return GoldenFaces(self.images[:faces], self.boxes[:faces], self.features[:faces], self.log_likelihoods[:faces])


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle in `folder` after checking every file against its recorded digest.

    Raises:
        BundleMismatch: with one sentence that names the file and what is wrong with it.
    """
    manifest, digest = _read_manifest(folder)
    _check_files(folder, manifest)
    arrays = read_arrays(folder / "mixture.npz", ("weights", "means", "precisions_cholesky"))
    calibration = read_arrays(folder / "calibration.npz", ("log_likelihoods",))["log_likelihoods"].astype(np.float64)
    try:
        mixture = GaussianMixture(**arrays)
    except ValueError as error:
        message = f"{folder / 'mixture.npz'} is no usable mixture: {error}"
        raise BundleMismatch(message) from error
    if mixture.means.shape != (manifest.mixture_components, manifest.feature_size):
        message = f"{folder / 'mixture.npz'} holds means of shape {mixture.means.shape}, the manifest states otherwise"
        raise BundleMismatch(message)
    if calibration.shape != (manifest.calibration_size,) or not np.isfinite(calibration).all():
        message = f"{folder / 'calibration.npz'} is not {manifest.calibration_size} finite log-likelihoods"
        raise BundleMismatch(message)
    if (np.diff(calibration) < 0).any():
        message = f"{folder / 'calibration.npz'} is not in ascending order"
        raise BundleMismatch(message)
    stacked = stack_mixture(mixture)
    model = Model(manifest.bundle_id, digest, manifest.preprocess, stacked, round_nats(calibration))
    return Bundle(folder, manifest, model)


def read_golden(folder: Path) -> GoldenFaces:
    """Read `golden.npz`; pictures are stored as one byte array with their lengths."""
    arrays = read_arrays(folder / "golden.npz", ("pictures", "lengths", "boxes", "features", "log_likelihoods"))
    ends = np.cumsum(arrays["lengths"]).tolist()
    joined = arrays["pictures"].astype(np.uint8).tobytes()
    images = tuple(joined[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return GoldenFaces(images, arrays["boxes"], arrays["features"], round_nats(arrays["log_likelihoods"]))


def embed_golden(golden: GoldenFaces, bundle: Bundle, embedder: Embedder) -> FeatureBatch:
    """Send the golden faces through `embedder` and return their features.

    Raises:
        BundleMismatch: a golden face could not be cut or embedded at all.
    """
    faces = []
    for data, box in zip(golden.images, golden.boxes, strict=True):
        info = probe_image(data)
        face = EncodedFace.around(data, info, FaceBox(*map(float, box)), bundle.model.preprocess)
        if face is None:
            message = f"{bundle.folder / 'golden.npz'} has a box outside its picture"
            raise BundleMismatch(message)
        faces.append(face)
    batch = embedder.embed(faces)
    for row, failure in batch.failures.items():
        message = f"golden face {row} of {bundle.folder} could not be embedded: {failure}"
        raise BundleMismatch(message)
    return batch


def verify_engine(bundle: Bundle, embedder: Embedder, faces: int | None = None) -> float:
    """Compare the live engine with the golden answers; return the largest difference in nats.

    Args:
        bundle: whose answers they are.
        embedder: the engine.
        faces: how many golden faces to send; all of them if None.

    Raises:
        BundleMismatch: the difference exceeds the manifest's tolerance, or the golden faces fail.
    """
    try:
        golden = read_golden(bundle.folder).first(faces)
        likelihoods = embed_golden(golden, bundle, embedder).log_likelihood(bundle.model.mixture)
    except Unscorable as error:
        message = f"{bundle.folder / 'golden.npz'} holds a picture that cannot be read: {error}"
        raise BundleMismatch(message) from error
    drift = np.abs(likelihoods - golden.log_likelihoods)
    worst = float(drift.max())
    if not worst <= bundle.manifest.golden_tolerance_nats:
        message = (
            f"the live engine is {worst:.3g} nats away from the golden answers of {bundle.folder}; "
            f"{bundle.manifest.golden_tolerance_nats:g} are allowed: this engine must not score with this bundle"
        )
        raise BundleMismatch(message)
    return worst


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an `.npz`, never a pickle.

    Raises:
        BundleMismatch: the file is no array archive, lacks a name, or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        message = f"{path} does not hold the plain arrays {', '.join(names)}: {error}"
        raise BundleMismatch(message) from error


def write_manifest(folder: Path, fields: Mapping[str, object], licences: Mapping[str, str]) -> Manifest:
    """Write `bundle.json` for every file now in `folder`.

    Args:
        folder: the bundle, complete but for its manifest.
        fields: the manifest's fields except `schema_version` and `files`.
        licences: the licence of each file by its path in the bundle.

    Raises:
        KeyError: a file has no licence stated.
    """
    files = {
        path: FileRecord(sha256=_digest(folder / path), bytes=(folder / path).stat().st_size, licence=licences[path])
        for path in list_files(folder)
    }
    manifest = Manifest.model_validate({"schema_version": SCHEMA_VERSION, **fields, "files": files})
    fields = manifest.model_dump(mode="json", exclude_none=True)
    (folder / MANIFEST).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    return manifest


def _read_manifest(folder: Path) -> tuple[Manifest, str]:
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        message = f"{folder} is no bundle: cannot read {MANIFEST} ({error.strerror})"
        raise BundleMismatch(message) from error
    if len(raw) > MAX_MANIFEST_BYTES:
        message = f"{path} is {len(raw)} bytes, over the {MAX_MANIFEST_BYTES} of any real manifest"
        raise BundleMismatch(message)
    try:
        fields = json.loads(raw)
        version = fields["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} is no manifest: {type(error).__name__}: {error}"
        raise BundleMismatch(message) from error
    if version != SCHEMA_VERSION:
        message = (
            f"{path} has schema version {version!r}, this release reads {SCHEMA_VERSION}: use the one that made it"
        )
        raise BundleMismatch(message)
    try:
        return Manifest.model_validate(fields), hashlib.sha256(raw).hexdigest()
    except ValidationError as error:
        message = f"{path} does not fit the manifest's schema: {describe_problems(error)}"
        raise BundleMismatch(message) from error


def _check_files(folder: Path, manifest: Manifest) -> None:
    present = set(list_files(folder))
    if manifest.target == "tensorrt":
        present -= BUILT_FILES
    for name in sorted(present | set(manifest.files)):
        if Path(name).suffix.lower() in PICKLES:
            message = (
                f"{folder / name} is of a kind that can hold a pickle, which could run code: a bundle never has one"
            )
            raise BundleMismatch(message)
        if name not in present:
            message = f"{folder / name} is missing: copy the whole bundle again"
            raise BundleMismatch(message)
        if name not in manifest.files:
            message = f"{folder / name} is not in the manifest: remove it or write the bundle again"
            raise BundleMismatch(message)
        if _digest(folder / name) != manifest.files[name].sha256:
            message = f"{folder / name} has changed: its SHA-256 is not the one in {MANIFEST}"
            raise BundleMismatch(message)


def list_files(folder: Path) -> list[str]:
    """Return the paths in a bundle's folder that its manifest must list: every file but itself and its signature."""
    unlisted = {MANIFEST, SIGNATURE}
    return sorted(
        name
        for path in folder.rglob("*")
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in unlisted and path.name != MANIFEST
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
