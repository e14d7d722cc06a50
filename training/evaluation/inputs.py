"""What an evaluation is given, and the crops it makes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ingest.detect import DetectorSpec, load_detector
from scorer.commands.progress import Progress
from scorer.mixture import GaussianMixture
from training.data.shards import Images
from training.evaluation.evaluate import Extract, Photographs, Pictures, compare_features, list_compared_roles
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.generated import CutPictures, Part, PictureCutter, draw_pictures
from training.evaluation.measures import Rate
from training.evaluation.protocol import MAX_FACES, ProtocolComparison
from training.recipes import Recipe

MAX_FITTED = 25_000  # the release fits on as many


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated.

    Attributes:
        run: folder that was prepared, trained, fitted and calibrated.
        recipe: of the run.
        load_role: reads the photographs of a role of the run.
        mixture: what `fit` wrote.
        engines: exported graph by precision, the recipe's and "fp32" among them.
        threads: CPU threads.
        pretext: accuracy of the pretext tasks on the role test, by task.
    """

    run: Path
    recipe: Recipe
    load_role: Callable[[str], Photographs]
    mixture: GaussianMixture
    engines: Mapping[str, Path]
    threads: int
    pretext: Mapping[str, Rate]


@dataclass(frozen=True, slots=True)
class Extras:
    """What stands beside the run, all of it optional.

    Attributes:
        photographs: for recipes that compare whole pictures, a folder with one folder of photographs a role: `fit`,
            which the compared mixture is fitted on, and `test`.
        features: other features by name, for Table II.
        runs: folders of evaluated runs by name, for Table III.
    """

    photographs: Path | None = None
    features: Mapping[str, Extract] = field(default_factory=dict)
    runs: Mapping[str, Path] = field(default_factory=dict)


def cut_folders(
    folders: Mapping[str, Path], part: Part, subject: Subject, scratch: Path, console: Console
) -> dict[str, CutPictures]:
    """Return the crops of each folder, at most 5,000 (25,000 for the role `fit`), cut as the recipe cuts faces.

    Raises:
        FileNotFoundError: a folder holds no picture or gives no crop.
    """
    cutter = PictureCutter(
        load_detector(subject.run, DetectorSpec(), subject.threads),
        subject.recipe.preprocess,
        part,
        subject.threads,
        scratch,
    )
    paths = {
        name: draw_pictures(folder, MAX_FITTED if (part, name) == ("image", "fit") else MAX_FACES)
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
    """Photographs as a whole; see `Photographs`."""

    crops: Images
    photos: NDArray[np.str_]
    sources: NDArray[np.str_]

    @classmethod
    def number(cls, crops: Images) -> Self:
        """Return crops each of its own photograph, in two halves that serve as sources."""
        numbers = np.arange(len(crops))
        return cls(crops, numbers.astype(str), (numbers % 2).astype(str))


def compare_whole(
    scorer: FaceScorer, subject: Subject, folders: tuple[Path, Mapping[str, Path]], scratch: Path, console: Console
) -> ProtocolComparison:
    """Return the paper's figures of whole pictures, as the authors' release takes them, with a mixture of their own.

    `folders` are that of the photographs, with a folder for each role, and those of the generators.
    """
    photographs, generators = folders
    roles = {role: photographs / role for role in list_compared_roles(subject.recipe)}
    real = cut_folders(roles, "image", subject, scratch, console)
    others = cut_folders(generators, "image", subject, scratch, console)
    pictures = Pictures(
        {role: WholePictures.number(cut.crops) for role, cut in real.items()},
        {name: cut.crops for name, cut in others.items()},
    )
    return compare_features(scorer.embed, pictures, subject.recipe)
