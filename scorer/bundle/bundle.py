"""Read, check and write a bundle: the folder that training writes and that serving mounts.

No code of a bundle can run: the manifest is JSON, arrays are read by `scorer.bundle.arrays`, which knows no pickle, and
the network is an OpenVINO or an ONNX graph.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Never

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from scorer.bundle.arrays import ArraySpec, InvalidArrays, read_arrays
from scorer.bundle.calibration import read_calibration
from scorer.bundle.manifest import CALIBRATION, GOLDEN, MAX_FILES, MIXTURE, SCHEMA_VERSION, FileRecord, Manifest
from scorer.errors import BundleMismatch
from scorer.files import open_inside
from scorer.messages import describe_problems
from scorer.mixture import GaussianMixture, round_nats, stack_mixture
from scorer.model import Model

MANIFEST, SIGNATURE = "bundle.json", "bundle.json.sig"  # the signature is optional: `scorer.bundle.signature`
README = "README.md"  # for people; no code reads it, so the manifest does not list it
PLAN_FILE, BUILD_FILE = "face_extractor/1/model.plan", "face_extractor/1/build.json"
# Written beside the graph of a GPU bundle by the machine that serves (`scorer.engines.tensorrt.plan`); a killed build
# leaves a partial file.
BUILT_FILES = frozenset({PLAN_FILE, BUILD_FILE, f"{PLAN_FILE}.partial", f"{BUILD_FILE}.partial"})
MAX_MANIFEST_BYTES, MAX_PLAN_BYTES = 1 << 20, 1 << 31
MAX_GOLDEN_FACES = 1000
_MAX_FACTOR_BYTES, _MAX_ARRAYS_BYTES, _MAX_FOLDERS = 2**28, 2**29, 100
PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy"})


@dataclass(frozen=True, slots=True, eq=False)
class GoldenFaces:
    """Faces with known results, which the live engine must reproduce before it is used.

    Attributes:
        images: one encoded image per face.
        boxes: [G, 4] as x, y, width, height in upright pixels.
        features: [G, D] float32, computed by the exported engine.
        log_likelihoods: [G] in nats.
    """

    images: tuple[bytes, ...]
    boxes: NDArray[np.float64]
    features: NDArray[np.float32]
    log_likelihoods: NDArray[np.float64]

    def first(self, faces: int | None) -> "GoldenFaces":
        """Return the first `faces` golden faces; all if None."""
        return GoldenFaces(self.images[:faces], self.boxes[:faces], self.features[:faces], self.log_likelihoods[:faces])


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A verified bundle: its folder, its manifest and the content of its arrays."""

    folder: Path
    manifest: Manifest
    model: Model
    golden: GoldenFaces

    @property
    def extractor(self) -> Path:
        """The path of the network; `read` returns its bytes."""
        return self.folder / self.manifest.extractor

    def read(self, path: Path) -> bytes:
        """Return the bytes of a file of the bundle after checking their digest; parse these, not the file.

        Raises:
            BundleMismatch: the file differs from the one that the manifest lists.
        """
        name = path.relative_to(self.folder).as_posix()
        return _read_recorded(self.folder, name, self.manifest.files[name])

    def copy(self, *paths: Path) -> "tempfile.TemporaryDirectory[str]":
        """Return a private folder with checked copies of files at the same relative paths, for code that reads by path.

        Raises:
            BundleMismatch: as `read`.
        """
        contents = {path.relative_to(self.folder): self.read(path) for path in paths}
        folder = tempfile.TemporaryDirectory(prefix="unlensed-")
        for name, data in contents.items():
            copy = Path(folder.name) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
        return folder


def read_bundle(folder: Path, check_manifest: Callable[[bytes], None] | None = None) -> Bundle:
    """Read the bundle in `folder` after checking every file against its recorded digest.

    Each file is opened once, and the hashed bytes are the parsed bytes; a network is hashed again when an engine reads
    it.

    Args:
        folder: the folder of the bundle.
        check_manifest: raises if the bytes of the manifest are not those of an accepted bundle.

    Raises:
        BundleMismatch: the message names the file and what is wrong with it.
    """
    raw = _read_manifest_bytes(folder)
    if check_manifest:
        check_manifest(raw)
    manifest = _parse_manifest(folder / MANIFEST, raw)
    contents = _check_files(folder, manifest)
    components, size = manifest.mixture_components, manifest.feature_size
    arrays = _arrays(
        folder / MIXTURE,
        contents[MIXTURE],
        {
            "weights": ArraySpec("f", ((components,),)),
            "means": ArraySpec("f", ((components, size),)),
            "precisions_cholesky": ArraySpec("f", ((components, size), (components, size, size)), _MAX_FACTOR_BYTES),
        },
    )
    calibration = read_calibration(folder / CALIBRATION, contents[CALIBRATION], manifest)
    try:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            stacked = stack_mixture(GaussianMixture(**arrays))
    except (ValueError, FloatingPointError) as error:
        message = f"{folder / MIXTURE} is not a usable mixture: {error}"
        raise BundleMismatch(message) from error
    golden = _read_golden(folder / GOLDEN, contents[GOLDEN], size)
    digest = hashlib.sha256(raw).hexdigest()
    model = Model(manifest.bundle_id, digest, manifest.preprocess, stacked, calibration)
    return Bundle(folder, manifest, model, golden)


def read_mixture(bundle: Bundle) -> GaussianMixture:
    """Return the mixture of a bundle with its parameters as stored.

    Raises:
        BundleMismatch: the file has changed since the bundle was read.
    """
    with np.load(io.BytesIO(bundle.read(bundle.folder / MIXTURE)), allow_pickle=False) as arrays:
        return GaussianMixture(arrays["weights"], arrays["means"], arrays["precisions_cholesky"])


def _read_golden(path: Path, data: bytes, size: int) -> GoldenFaces:
    """Read the golden faces; the images are stored as one byte array and their lengths."""
    wanted = {
        "pictures": ArraySpec("u", ((None,),)),
        "lengths": ArraySpec("iu", ((None,),)),
        "boxes": ArraySpec("f", ((None, 4),)),
        "features": ArraySpec("f", ((None, size),)),
        "log_likelihoods": ArraySpec("f", ((None,),)),
    }
    arrays = _arrays(path, data, wanted)
    lengths = [int(length) for length in arrays["lengths"]] if arrays["lengths"].size <= MAX_GOLDEN_FACES else []
    others = {len(arrays[name]) for name in ("boxes", "features", "log_likelihoods")}
    joined = arrays["pictures"].astype(np.uint8).tobytes()
    if not lengths or others != {len(lengths)} or min(lengths) <= 0 or sum(lengths) != len(joined):
        message = f"{path} does not contain 1 to {MAX_GOLDEN_FACES} pictures with a box and a result each"
        raise BundleMismatch(message)
    boxes = arrays["boxes"].astype(np.float64)
    if (boxes[:, 2:] <= 0).any():
        message = f"{path} has a box without an area"
        raise BundleMismatch(message)
    ends = np.cumsum(lengths).tolist()
    images = tuple(joined[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return GoldenFaces(images, boxes, arrays["features"], round_nats(arrays["log_likelihoods"].astype(np.float64)))


def _arrays(path: Path, data: bytes, wanted: Mapping[str, ArraySpec]) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(data, wanted)
    except InvalidArrays as error:
        message = f"{path} cannot be used: {error}"
        raise BundleMismatch(message) from error


def write_manifest(folder: Path, fields: Mapping[str, object], licences: Mapping[str, str]) -> Manifest:
    """Write `bundle.json`, which lists every file in `folder`.

    Args:
        folder: the bundle, complete except for its manifest.
        fields: the fields of the manifest except `schema_version` and `files`.
        licences: the licence of each file by its path in the bundle.

    Raises:
        KeyError: `licences` lacks a file.
    """
    files = {
        path: FileRecord(sha256=_digest(folder / path), bytes=(folder / path).stat().st_size, licence=licences[path])
        for path in list_files(folder)
    }
    manifest = Manifest.model_validate({"schema_version": SCHEMA_VERSION, **fields, "files": files})
    fields = manifest.model_dump(mode="json", exclude_none=True)
    (folder / MANIFEST).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    return manifest


def _read_manifest_bytes(folder: Path) -> bytes:
    try:
        with open_inside(folder, MANIFEST) as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        message = f"{folder} is not a bundle: cannot read {MANIFEST} ({error.strerror})"
        raise BundleMismatch(message) from error
    if len(raw) > MAX_MANIFEST_BYTES:
        message = f"{folder / MANIFEST} is over the limit of {MAX_MANIFEST_BYTES} bytes for a manifest"
        raise BundleMismatch(message)
    return raw


def _parse_manifest(path: Path, raw: bytes) -> Manifest:
    try:
        version = json.loads(raw, parse_constant=_refuse_constant)["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} is not a manifest: {type(error).__name__}: {error}"
        raise BundleMismatch(message) from error
    if version != SCHEMA_VERSION:
        message = f"{path} has schema version {version!r:.40}, but this release reads {SCHEMA_VERSION}: export it again"
        raise BundleMismatch(message)
    try:
        return Manifest.model_validate_json(raw, strict=True)
    except ValidationError as error:
        message = f"{path} does not fit the manifest's schema: {describe_problems(error)}"
        raise BundleMismatch(message) from error


def _refuse_constant(name: str) -> Never:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _check_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Check every file; return the bytes of the array files, which are parsed next."""
    try:
        present = set(list_files(folder))
    except OSError as error:
        message = f"{folder} cannot be listed: {error.strerror}"
        raise BundleMismatch(message) from error
    if manifest.target == "tensorrt":
        present -= BUILT_FILES
    contents = {}
    for name in sorted(present | set(manifest.files)):
        if Path(name).suffix.lower() in PICKLES:
            message = (
                f"{folder / name} has a format that can contain a pickle, which can run code: a bundle never has one"
            )
            raise BundleMismatch(message)
        if name not in present:
            message = f"{folder / name} is missing: copy the whole bundle again"
            raise BundleMismatch(message)
        if name not in manifest.files:
            message = f"{folder / name} is not in the manifest: remove it or write the bundle again"
            raise BundleMismatch(message)
        if name in {MIXTURE, CALIBRATION, GOLDEN}:
            if manifest.files[name].bytes > _MAX_ARRAYS_BYTES:
                message = f"{folder / name} is over the limit of {_MAX_ARRAYS_BYTES} bytes for arrays"
                raise BundleMismatch(message)
            contents[name] = _read_recorded(folder, name, manifest.files[name])
        else:
            with _open_recorded(folder, name, manifest.files[name]) as file:
                found = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # it takes any binary file
            _require_digest(folder / name, found.hexdigest(), manifest.files[name])
    return contents


def _read_recorded(folder: Path, name: str, record: FileRecord) -> bytes:
    with _open_recorded(folder, name, record) as file:
        data = file.read(record.bytes + 1)
    _require_digest(folder / name, hashlib.sha256(data).hexdigest(), record)
    return data


@contextmanager
def _open_recorded(folder: Path, name: str, record: FileRecord) -> Iterator[IO[bytes]]:
    try:
        with open_inside(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.bytes:
                message = f"{folder / name} has changed: it has {size} bytes, not the {record.bytes} in {MANIFEST}"
                raise BundleMismatch(message)
            yield file
    except OSError as error:
        message = f"{folder / name} cannot be read: {error.strerror}"
        raise BundleMismatch(message) from error


def _require_digest(path: Path, found: str, record: FileRecord) -> None:
    if found != record.sha256:
        message = f"{path} has changed: its SHA-256 is not the one in {MANIFEST}"
        raise BundleMismatch(message)


def read_unlisted_file(folder: Path, name: str, max_bytes: int) -> bytes:
    """Return the bytes of a file in a bundle's folder that the manifest does not list: a signature, a plan.

    Raises:
        BundleMismatch: the file is larger than `max_bytes`.
        OSError: it cannot be read, or is not a regular file inside the folder.
    """
    with open_inside(folder, name) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        message = f"{folder / name} is over the limit of {max_bytes} bytes"
        raise BundleMismatch(message)
    return data


def list_files(folder: Path) -> list[str]:
    """Return the paths in a bundle's folder that its manifest must list.

    Those are all files except the manifest itself, its signature and `README.md`.

    Raises:
        BundleMismatch: there are too many files or folders.
        OSError: a folder cannot be listed.
    """
    found: list[str] = []
    folders = 0
    for place, below, names in os.walk(folder, onerror=_raise):
        found += (Path(place, name).relative_to(folder).as_posix() for name in names)
        folders += len(below)
        if len(found) > MAX_FILES + len(BUILT_FILES) or folders > _MAX_FOLDERS:
            message = f"{folder} contains more files or folders than a bundle may have: is it the bundle's folder?"
            raise BundleMismatch(message)
    return sorted(set(found) - {MANIFEST, SIGNATURE, README})


def _raise(error: OSError) -> Never:
    raise error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
