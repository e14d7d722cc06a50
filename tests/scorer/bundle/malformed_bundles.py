"""Bundles that are malformed in one way each, with matching digests."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ingest.network_files import list_network_files
from scorer.bundle.bundle import MANIFEST

Harm = Callable[[Path], object]
# What bundles of earlier releases do not state; `target` has a default, and no plan is what a CPU bundle states.
OPTIONAL = {"target", "plan", "calibration_photographs", "evaluation", "calibration_strata"}
# Text that is only handed on: any text will do.
FREE = {"bundle_id", "licence", "precision", "calibration_id", "input_tensor", "output_tensor"}
NUMBERS: tuple[object, ...] = (-1, 0, 10**30, 1e300, float("nan"), float("inf"), "many", True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest's fields."""
    fields: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return fields


def write_manifest(folder: Path, fields: object) -> None:
    """Write the manifest's fields as they are."""
    (folder / MANIFEST).write_text(json.dumps(fields))


def record(folder: Path, name: str) -> None:
    """Make the manifest agree with a replaced file, as a forger would."""
    manifest = read_manifest(folder)
    data = (folder / name).read_bytes()
    licence = {"licence": "none"} | manifest["files"].get(name, {})
    manifest["files"][name] = licence | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_manifest(folder, manifest)


def list_harms(folder: Path) -> dict[str, Harm]:
    """Return every way to damage a copy of the bundle in `folder`, by a descriptive name."""
    manifest = read_manifest(folder)
    of_the_manifest = (_spoil_fields, _spoil_values, _spoil_names, _spoil_files)
    return dict([*chain.from_iterable(spoil(manifest) for spoil in of_the_manifest), *_spoil_arrays(folder)])


def _spoil_fields(manifest: dict[str, Any]) -> Iterator[tuple[str, Harm]]:
    for name, value in manifest.items():
        if name not in OPTIONAL:
            yield f"{name} is missing", partial(_change, (name,), None, remove=True)
            yield f"{name} is null", partial(_change, (name,), None)
        yield f"{name} is a list of lists", partial(_change, (name,), [[]])
        if name not in OPTIONAL | FREE and isinstance(value, str):
            yield f"{name} is other text", partial(_change, (name,), "\0../\ud800")


def _spoil_values(manifest: dict[str, Any]) -> Iterator[tuple[str, Harm]]:
    leaves = [(name,) for name in ("feature_size", "mixture_components", "calibration_size", "golden_tolerance_nats")]
    leaves += [("preprocess", name) for name in ("size", "margin")]
    leaves += [
        ("detector", name)
        for name in ("min_confidence", "min_face_px", "max_level_pixels", "level_step", "max_overlap")
    ]
    for path in leaves:
        for number in NUMBERS:
            yield f"{'.'.join(path)} is {number!r}", partial(_change, path, number)
    for name in ("mean", "std", "network_face_px"):
        section = "preprocess" if name in manifest["preprocess"] else "detector"
        for values in ([], [float("nan")] * len(manifest[section][name]), [1e300] * len(manifest[section][name]), 3):
            yield f"{section}.{name} is {values}", partial(_change, (section, name), values)


def _spoil_names(manifest: dict[str, Any]) -> Iterator[tuple[str, Harm]]:
    for name in ("/etc/passwd", "../outside", "a/../b", "./a", "", "a\0b", "line\nbreak", "a" * 5000):
        yield f"a file {name[:20]!r} is listed", partial(_change, ("files", name), manifest["files"]["mixture.npz"])
    for name in ("../outside/model.xml", "/etc/passwd", "no/such.xml", "MODEL_CARD.md"):
        yield f"extractor is {name}", partial(_change, ("extractor",), name)
        yield f"detector.file is {name}", partial(_change, ("detector", "file"), name)
    for text in (
        *("", "null", "[]", "{}", "1", '"x"', "\xff", "NaN", '{"schema_version": NaN}'),
        *("[" * 10**5, "{" * 10**6),
    ):
        yield f"the manifest is {text[:20]!r}", partial(_write, MANIFEST, text.encode("latin-1"))
    yield "the manifest is too long", partial(_write, MANIFEST, b" " * (2**20 + 1))
    for value in ("text", 1, -1, 1.5, None):
        yield f"schema_version is {value!r}", partial(_change, ("schema_version",), value)
    for field, values in {"sha256": ("", "0" * 64, "g" * 64, 5), "bytes": (-1, 0, 10**30, "9", 1.5)}.items():
        for value in values:
            yield f"a file's {field} is {value!r}", partial(_change, ("files", "mixture.npz", field), value)


def _change(path: tuple[str, ...], value: object, folder: Path, *, remove: bool = False) -> None:
    fields = read_manifest(folder)
    section = fields
    for name in path[:-1]:
        section = section[name]
    if remove:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    write_manifest(folder, fields)


def _write(name: str, data: bytes, folder: Path) -> None:
    (folder / name).write_bytes(data)
    if name != MANIFEST:
        record(folder, name)


def _spoil_arrays(folder: Path) -> Iterator[tuple[str, Harm]]:
    for file in ("mixture.npz", "calibration.npz", "golden.npz"):
        with np.load(folder / file) as archive:
            arrays = dict(archive)
        for name, array in arrays.items():
            spoilt: dict[str, Any] = {
                "of objects": np.array([{}], dtype=object),
                "of text": np.array(["a"]),
                "complex": array.astype(complex),
                "of booleans": array.astype(bool),
                "empty": array[:0],
                "a scalar": np.float64(1),
                "of one more dimension": array[np.newaxis],
                "of a structure": np.zeros(array.shape, dtype=[("a", "f8")]),
            }
            if name != "pictures":
                spoilt["one row longer"] = np.concatenate([array, array[:1]])
            if array.dtype.kind == "f":
                for number in (np.nan, np.inf, -np.inf):
                    spoilt[f"of {number}"] = np.full_like(array, number)
            for what, value in spoilt.items():
                yield f"{file}: {name} is {what}", partial(_save, file, arrays | {name: value})
            yield f"{file}: {name} is missing", partial(_save, file, {k: v for k, v in arrays.items() if k != name})
            for what, data in _bombs().items():
                yield f"{file}: {name} is {what}", partial(_save, file, arrays, other=name, data=data)
        whole = (folder / file).read_bytes()
        for cut in (0, 1, 30, len(whole) // 2, len(whole) - 1):
            yield f"{file} is cut to {cut} bytes", partial(_write, file, whole[:cut])
        yield f"{file} is a pickle", partial(_write, file, pickle.dumps([1]))
        yield f"{file} is a bare array", partial(_write, file, _npy(np.zeros(3)))
    with np.load(folder / "mixture.npz") as archive:
        mixture = dict(archive)
    yield "the weights are negative", partial(_save, "mixture.npz", mixture | {"weights": -mixture["weights"]})
    yield "the factors are zero", partial(_save, "mixture.npz", mixture | {"precisions_cholesky": 0 * mixture["means"]})
    yield (
        "the means overflow",
        partial(_save, "mixture.npz", mixture | {"means": np.full(mixture["means"].shape, 1.7e308)}),
    )
    with np.load(folder / "golden.npz") as archive:
        golden = dict(archive)
    yield "golden boxes have no area", partial(_save, "golden.npz", golden | {"boxes": -np.abs(golden["boxes"])})
    yield "golden boxes lie outside", partial(_save, "golden.npz", golden | {"boxes": golden["boxes"] + 1e6})
    yield "golden lengths are negative", partial(_save, "golden.npz", golden | {"lengths": -golden["lengths"]})
    yield "golden lengths are huge", partial(_save, "golden.npz", golden | {"lengths": golden["lengths"] + 2**62})
    yield (
        "golden pictures are noise",
        partial(_save, "golden.npz", golden | {"pictures": np.zeros_like(golden["pictures"])}),
    )
    with np.load(folder / "calibration.npz") as archive:
        values = archive["log_likelihoods"]
    yield "the calibration is out of order", partial(_save, "calibration.npz", {"log_likelihoods": values[::-1]})


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@cache
def _bombs() -> dict[str, bytes]:
    """Return members that state or inflate to far more than they are."""
    header = _npy(np.zeros(1, np.float64))[:128]
    huge = header.replace(b"'shape': (1,), }   ", b"'shape': (9" + b"9" * 7 + b",),}")
    return {
        "a bomb": header + bytes(2**27),
        "of a huge shape": huge,
        "of a negative shape": header.replace(b"(1,), } ", b"(-1,), }"),
        "of a damaged header": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000,
        "no array": b"text",
    }


def _save(file: str, arrays: dict[str, Any], folder: Path, *, other: str = "", data: bytes = b"") -> None:
    with zipfile.ZipFile(folder / file, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", data if name == other else _npy(np.asarray(array)))
    record(folder, file)


def _spoil_files(manifest: dict[str, Any]) -> Iterator[tuple[str, Harm]]:
    detector, extractor = manifest["detector"]["file"], manifest["extractor"]
    for name in (*manifest["files"], MANIFEST):
        yield f"{name} is a folder", partial(_replace, name, lambda path, _: path.mkdir())
        yield f"{name} is a pipe", partial(_replace, name, lambda path, _: os.mkfifo(path))
        yield f"{name} is a device", partial(_replace, name, lambda path, _: path.symlink_to("/dev/zero"))
        yield f"{name} leads out", partial(_replace, name, lambda path, kept: path.symlink_to(kept))
        yield f"{name} leads nowhere", partial(_replace, name, lambda path, _: path.symlink_to("nowhere"))
        yield f"{name} leads to itself", partial(_replace, name, lambda path, _: path.symlink_to(path))
        yield f"{name} is gone", partial(_replace, name, lambda _path, _kept: None)
    for name in (*map(str, list_network_files(Path(extractor))), detector, *_ARRAYS):
        yield f"{name} is empty", partial(_write, name, b"")
        yield f"{name} is text", partial(_write, name, b"<net/>" * 100)
    yield "a stray pipe", lambda folder: os.mkfifo(folder / "stray")
    yield "a stray link", lambda folder: (folder / "stray").symlink_to("/etc/passwd")
    yield "many folders", lambda folder: (folder / "/".join("a" * 900)).mkdir(parents=True)
    yield "a pickle", partial(_write, "weights.pt", pickle.dumps(1))


_ARRAYS = ("mixture.npz", "calibration.npz", "golden.npz")


def _replace(name: str, make: Callable[[Path, Path], object], folder: Path) -> None:
    path, kept = folder / name, folder.parent / "kept"
    path.rename(kept)
    make(path, kept)
