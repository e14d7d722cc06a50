"""How each detector of the catalogue is opened for a comparison, and what must be said of its photographs."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from scorer.bundle.bundle import MANIFEST, read_bundle
from scorer.decide import Calibration
from training.data.shards import load_role
from training.evaluation.compare.run import ONE_CLASS_SCORE, ComparedFaces, Opener, compare_detectors
from training.evaluation.detectors.base import Detector, Picture
from training.evaluation.detectors.baseline import FACTS, describe_files, find_folder, load_baseline
from training.evaluation.detectors.catalogue import DETECTORS, ONE_CLASS, find_design
from training.evaluation.detectors.one_class import open_one_class
from training.evaluation.detectors.windows import CutRule, Windows, cut_for_run
from training.evaluation.protocol import MAX_FACES

NAMES = (*ONE_CLASS, *DETECTORS)
FITTED = ("bundle_l2", "residuals", "noiseprint")  # on photographs, when they are opened
OWN_ROLES = ("train", "fit", "calibrate")  # whose photographs a bundle of the run knows


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """The command's options.

    Attributes:
        run: the prepared run, with its baselines.
        real: folder with one folder for each source.
        generated: folder of each generator's pictures, by name.
        bundle: folder of the bundle.
        photographs: folder of the photographs that the detectors in `FITTED` are fitted on; None takes the role `fit`.
        files: that detectors need, by name.
        threads: of the CPU.
        most: pictures of each folder.
        curves: whether to measure the robustness curves.
    """

    run: Path
    real: Path
    generated: Mapping[str, Path]
    bundle: Path
    photographs: Path | None
    files: Mapping[str, Path]
    threads: int
    most: int = MAX_FACES
    curves: bool = True


def compare_run(options: CompareOptions, names: Sequence[str], out: Path, console: Console) -> dict[str, Any]:
    """Cut the faces, and compare the detectors `names`; return the content of `compare.json`.

    Raises:
        FileNotFoundError: a folder has no picture with a face, or no detector can be used.
        BundleMismatch: the bundle is not usable.
        OSError: the disk is full.
    """
    rule = CutRule.of_run(options.run, options.threads)
    cutter = partial(cut_for_run, rule=rule, run=options.run, console=console, most=options.most)
    faces = ComparedFaces(cutter(options.real), {name: cutter(folder) for name, folder in options.generated.items()})
    openers = list_openers(options, names, faces.photographs, cutter)
    calibration = read_calibration(options.bundle) if ONE_CLASS_SCORE in names else None
    return compare_detectors(faces, openers, calibration, out, console, curves=options.curves)


def read_calibration(bundle: Path) -> Calibration:
    """Return the calibration of a bundle; errors as of `read_bundle`."""
    return read_bundle(bundle).model.calibration


def list_openers(
    options: CompareOptions, names: Sequence[str], photographs: Windows, cut: Callable[[Path], Windows]
) -> dict[str, Opener]:
    """Return how to open each detector; nothing is opened yet.

    Args:
        options: of the command.
        names: of the detectors.
        photographs: the compared ones, on which no detector may be fitted.
        cut: returns the windows of a folder.
    """
    compared = frozenset(photographs.sources.tolist())
    fitting = FittingPhotographs(options, compared, cut)
    return {
        name: _list_baseline(name, options, compared) if name in DETECTORS else _list_one_class(name, options, fitting)
        for name in names
    }


@dataclass(frozen=True, slots=True)
class FittingPhotographs:
    """The photographs that one-class detectors are fitted on: never of a compared source.

    Attributes:
        options: of the command.
        compared: sources of the compared photographs.
        cut: returns the windows of a folder.
    """

    options: CompareOptions
    compared: frozenset[str]
    cut: Callable[[Path], Windows]

    def read(self, name: str) -> Iterable[Picture]:
        """Return the pictures for the detector `name`; they stay on disk until they are used.

        Raises:
            FileNotFoundError: there are none.
        """
        if self.options.photographs is not None:
            windows = self.cut(self.options.photographs)
            return windows.select(self._find_allowed(windows.sources)).pictures
        faces = load_role(self.options.run, "fit")
        faces = faces.select(self._find_allowed(faces.sources))
        return faces.crops if name == "bundle_l2" else faces.wide  # a bundle's own crops need no second resampling

    def _find_allowed(self, sources: NDArray[np.str_]) -> NDArray[np.bool_]:
        allowed = ~np.isin(sources, list(self.compared))
        if not allowed.any():
            message = "every photograph to fit on is of a source that is compared: give --real photographs of others"
            raise FileNotFoundError(message)
        return allowed

    def describe(self, name: str) -> tuple[str, ...]:
        """Return what must be said of the photographs of the detector `name`."""
        shared = {role: self.compared & _list_sources(self.options.run, role) for role in OWN_ROLES}
        notes = [
            f"{len(sources)} of the {len(self.compared)} compared sources are in the role {role} of the run: a bundle "
            "of it knows them, so that its false alarms are too few"
            for role, sources in shared.items()
            if sources and name.startswith("bundle")
        ]
        if name in {"residuals", "noiseprint"} and self.options.photographs is None:
            notes.append(
                "it was fitted on faces that were resampled to 320 px, and the compared ones as stored are not: give "
                "--photographs"
            )
        return tuple(notes)


def digest_pictures(pictures: Iterable[Picture]) -> bytes:
    """Return a digest of the pixels of pictures."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.shape}".encode() + np.ascontiguousarray(picture).data)
    return digest.digest()


def _list_sources(run: Path, role: str) -> frozenset[str]:
    try:
        return frozenset(load_role(run, role).sources.tolist())
    except FileNotFoundError:
        return frozenset()


def _list_one_class(name: str, options: CompareOptions, fitting: FittingPhotographs) -> Opener:
    files = {key: path for key, path in options.files.items() if key == name and path.is_file()}

    def open_detector() -> tuple[Detector, bytes]:
        pictures = fitting.read(name) if name in FITTED else ()
        detector = open_one_class(name, options.bundle, pictures, options.threads, options.files)
        inputs = json.dumps({key: each["sha256"] for key, each in describe_files(files).items()}).encode()
        manifest = (options.bundle / MANIFEST).read_bytes() if name.startswith("bundle") else b""
        return detector, hashlib.sha256(digest_pictures(pictures) + inputs + manifest).digest()

    return Opener(open_detector, notes=fitting.describe(name))


def _list_baseline(name: str, options: CompareOptions, compared: frozenset[str]) -> Opener:
    path = find_folder(options.run, name) / FACTS
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    data = facts.get("data", {})
    shared = compared & data.get("real", {}).get("sources", {}).keys()

    def open_detector() -> tuple[Detector, bytes]:
        design = find_design(name)
        own = {key: path for key, path in options.files.items() if key in design.files}
        return load_baseline(options.run, name, own), b""

    steps = f", {facts['steps']} steps of {facts['published_steps']}" if "steps" in facts else ""
    generator = data.get("generator", "")
    note = (
        f"{len(shared)} of the {len(compared)} compared sources are among its training photographs, so that its false "
        "alarms are too few"
    )
    return Opener(
        open_detector,
        trained_on=facts.get("weights", "") + steps,
        training=tuple(
            each for each, folder in options.generated.items() if generator in {each, folder.resolve().name}
        ),
        notes=(note,) if shared else (),
    )
