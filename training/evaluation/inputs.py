"""The inputs of an evaluation: the run, the data to compare with, and the crops of pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ingest.detect import load_detector
from scorer.commands.progress import Progress
from scorer.mixture import GaussianMixture
from training.data.detector import SPEC
from training.data.shards import FaceSet, Images
from training.evaluation.evaluate import (
    EvaluationFaces,
    Extract,
    SweptMixture,
    compare_features,
    list_compared_roles,
)
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.generated import CutPictures, Part, PictureCutter, draw_pictures
from training.evaluation.measures import Rate
from training.evaluation.protocol import MAX_FACES, ProtocolComparison
from training.recipes import Precision, Recipe

MAX_FITTED_FACES = 25_000  # as in the paper (section III-A)


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """The run that is evaluated.

    Attributes:
        run: folder that was prepared, trained, fitted and calibrated.
        results: folder of `fit.json`, which receives the evaluation.
        recipe: of the run.
        precision: of the deployed engine.
        load_role: reads the photographs of a role.
        mixture: of the run.
        sweep: the best mixture of each number of components; empty if `fit` compared one number.
        engines: exported graph by precision, including the deployed one and "fp32".
        threads: CPU threads.
        pretext: accuracy of the pretext tasks on the role test, by task.
    """

    run: Path
    results: Path
    recipe: Recipe
    precision: Precision
    load_role: Callable[[str], FaceSet]
    mixture: GaussianMixture
    sweep: Mapping[int, SweptMixture]
    engines: Mapping[str, Path]
    threads: int
    pretext: Mapping[str, Rate]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Optional data to compare the run with.

    Attributes:
        photographs: for recipes that compare whole pictures, a folder with the folders `fit` (photographs for the
            mixture) and `test`.
        features: other features by name, for Table II.
        runs: folders of evaluated runs by name, for Table III.
    """

    photographs: Path | None = None
    features: Mapping[str, Extract] = field(default_factory=dict)
    runs: Mapping[str, Path] = field(default_factory=dict)


def cut_folders(
    folders: Mapping[str, Path], part: Part, evaluated: EvaluatedRun, scratch: Path, console: Console
) -> dict[str, CutPictures]:
    """Return the crops of each folder, at most 5,000 (25,000 for the role `fit`), cut as the recipe cuts faces.

    Raises:
        FileNotFoundError: a folder contains no picture, or no crop was found.
    """
    cutter = PictureCutter(
        load_detector(evaluated.run, SPEC, evaluated.threads),
        evaluated.recipe.preprocess,
        part,
        evaluated.threads,
        scratch,
    )
    paths = {
        name: draw_pictures(folder, MAX_FITTED_FACES if (part, name) == ("image", "fit") else MAX_FACES)
        for name, folder in folders.items()
    }
    label, total = f"cutting {part}s of {', '.join(folders)}", sum(map(len, paths.values()))
    with Progress(label, total, "pictures", console, summary=True) as progress:
        cut = {name: cutter.cut(f"{part}-{name}", files, progress.advance) for name, files in paths.items()}
    for name, pictures in cut.items():
        if not len(pictures.crops):
            message = f"no {part} was found in the {pictures.pictures} pictures of {folders[name]}: {pictures.dropped}"
            raise FileNotFoundError(message)
    return cut


@dataclass(frozen=True, slots=True, eq=False)
class WholePictures:
    """Whole photographs; see `PhotographFaces`."""

    crops: Images
    photos: NDArray[np.str_]
    sources: NDArray[np.str_]

    @classmethod
    def number(cls, crops: Images) -> Self:
        """Return crops with one photograph each, divided into two sources."""
        numbers = np.arange(len(crops))
        return cls(crops, numbers.astype(str), (numbers % 2).astype(str))


def compare_whole_pictures(
    scorer: FaceScorer,
    evaluated: EvaluatedRun,
    folders: tuple[Path, Mapping[str, Path]],
    scratch: Path,
    console: Console,
) -> ProtocolComparison:
    """Return the metrics of the paper's protocol for whole pictures, as in the release, with their own mixture.

    `folders` are the folder of photographs, which contains one folder for each role, and the folders of the generators.
    """
    photographs, generators = folders
    roles = {role: photographs / role for role in list_compared_roles(evaluated.recipe)}
    real = cut_folders(roles, "image", evaluated, scratch, console)
    others = cut_folders(generators, "image", evaluated, scratch, console)
    pictures = EvaluationFaces(
        {role: WholePictures.number(cut.crops) for role, cut in real.items()},
        {name: cut.crops for name, cut in others.items()},
    )
    return compare_features(scorer.embed, pictures, evaluated.recipe)
