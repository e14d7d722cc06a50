"""All figures of an evaluation: what goes into `evaluation.json`, and the arrays that the figures are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from scorer.commands.progress import Progress
from scorer.mixture import stack_mixture
from training.data.shards import Images
from training.evaluation.face_scorer import FaceScorer, score_features
from training.evaluation.measures import LogLikelihoods
from training.evaluation.operating_points import (
    RATES,
    flag_faces,
    judge_generators,
    name_photographs,
    separate,
    summarise,
)
from training.evaluation.protocol import ProtocolComparison, compare_generators
from training.evaluation.robustness import draw_rows, equalise_format, evaluate_condition, list_conditions
from training.mixture.fit import choose_mixture
from training.recipes import Recipe

Extract = Callable[[Images], NDArray[np.float32]]
"""From crops [N, S, S, 3], which may lie on disk, to features [N, D] of a compared method."""
FITTING_ROLES = ("train", "fit")
CHART_FACES = 300  # of each class in the t-SNE chart: more would only cover each other


class Photographs(Protocol):
    """Faces of photographs; `FaceSet` is one.

    Attributes:
        crops: [N, S, S, 3] uint8.
        photos: [N] name of the photograph.
        sources: [N] source of the photograph.
    """

    @property
    def crops(self) -> Images:
        """The faces."""

    @property
    def photos(self) -> NDArray[np.str_]:
        """Where each comes from."""

    @property
    def sources(self) -> NDArray[np.str_]:
        """Whose photograph it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What an evaluation looks at.

    Attributes:
        photographs: by role: `test`, on which nothing was fitted, chosen or calibrated; `calibrate`; and the roles that
            a threshold is taken from or a mixture of other features is fitted on.
        generated: crops by generator.
    """

    photographs: Mapping[str, Photographs]
    generated: Mapping[str, Images]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the figures are drawn from: log-likelihoods in nats, features, and each feature row's class."""

    photographs: LogLikelihoods
    generated: dict[str, LogLikelihoods]
    calibration: LogLikelihoods
    features: NDArray[np.float32]
    classes: NDArray[np.str_]


def evaluate_faces(scorer: FaceScorer, pictures: Pictures, console: Console) -> tuple[dict[str, object], Evidence]:
    """Return the report's sections `verdict`, `honest` and `robustness`, and the evidence.

    Raises:
        ValueError: a face has no finite log-likelihood.
    """
    test, generated = pictures.photographs["test"], pictures.generated
    places = test.sources, test.photos
    with Progress("scoring", 2 * (1 + len(generated)) + 1, "sets", console, summary=True) as progress:
        calibration = np.sort(scorer.log_likelihoods(pictures.photographs["calibrate"].crops))
        progress.advance()
        embedded = {}
        for name, crops in {"": test.crops, **generated}.items():
            embedded[name] = scorer.embed(crops)
            progress.advance()
        raw = {name: scorer.score_features(features) for name, features in embedded.items()}
        equal = {}
        for name, crops in {"": test.crops, **generated}.items():
            equal[name] = scorer.log_likelihoods(crops, equalise_format)
            progress.advance()
    if not all(np.isfinite(values).all() for values in (calibration, *raw.values(), *equal.values())):
        message = "a face has no finite log-likelihood: look for a broken engine or mixture, and run `fit` again"
        raise ValueError(message)
    photographs, others = raw.pop(""), raw
    plain = separate(photographs, places, others)
    equalised = separate(equal.pop(""), places, equal)
    flagged = {rate: flag_faces(photographs, places, others, calibration, rate) for rate in RATES}
    verdicts = judge_generators(plain, equalised)
    report: dict[str, object] = {
        "verdict": {
            "summary": summarise(verdicts, flagged[RATES[0]], RATES[0]),
            "generators": {name: asdict(verdict) for name, verdict in verdicts.items()},
        },
        "honest": {
            "flagged": {f"{rate:g}": asdict(row) for rate, row in flagged.items()},
            "raw": asdict(plain),
            "format_equalised": asdict(equalised),
        },
        "robustness": measure_robustness(scorer, pictures, calibration, console),
    }
    return report, Evidence(photographs, others, calibration, *sample_features(embedded))


def compare(
    weigh_crops: Callable[[Images], LogLikelihoods], pictures: Pictures, fitted_roles: Sequence[str], recipe: Recipe
) -> ProtocolComparison:
    """Return the paper's figures.

    Args:
        weigh_crops: log-likelihoods of crops.
        pictures: what is compared.
        fitted_roles: roles that the mixture behind `weigh_crops` was fitted on.
        recipe: says where the threshold comes from.
    """
    roles = fitted_roles if recipe.threshold_on == "train" else ("calibrate",)
    return compare_generators(
        np.concatenate([weigh_crops(pictures.photographs[role].crops) for role in roles]),
        weigh_crops(pictures.photographs["test"].crops),
        {name: weigh_crops(crops) for name, crops in pictures.generated.items()},
    )


def describe_comparison(comparison: ProtocolComparison, recipe: Recipe) -> dict[str, object]:
    """Return the fields of a comparison and by which rules it was made."""
    return asdict(comparison) | {"threshold_on": recipe.threshold_on, "test_crop": recipe.test_crop}


def measure_robustness(
    scorer: FaceScorer, pictures: Pictures, calibration: LogLikelihoods, console: Console
) -> list[dict[str, object]]:
    """Return one entry a condition."""
    test = pictures.photographs["test"]
    rows = draw_rows(len(test.crops))
    groups = name_photographs(test.sources, test.photos)[rows]
    crops = test.crops[rows]
    generated = {name: faces[draw_rows(len(faces))] for name, faces in pictures.generated.items()}
    conditions = list(list_conditions())
    entries: list[dict[str, object]] = []
    with Progress("robustness", len(conditions), "conditions", console, summary=True) as progress:
        for condition in conditions:
            entries.append(
                asdict(evaluate_condition(condition, scorer.log_likelihoods, (crops, groups), generated, calibration))
            )
            progress.advance()
    return entries


def sample_features(embedded: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return features [n, D] of at most `CHART_FACES` faces a class and their classes; photographs are class ""."""
    rng = np.random.default_rng(2024)
    drawn = {name: features[rng.permutation(len(features))[:CHART_FACES]] for name, features in embedded.items()}
    classes = np.repeat(np.array(list(drawn)), [len(features) for features in drawn.values()])
    return np.concatenate(list(drawn.values())), classes


def list_compared_roles(recipe: Recipe) -> list[str]:
    """Return the roles that `compare_features` needs."""
    fitted = {role for roles in recipe.mixture.role_sets for role in roles} | {"fit"}
    return sorted(fitted | {"test"} | ({"calibrate"} if recipe.threshold_on == "calibrate" else set()))


def compare_features(extract: Extract, pictures: Pictures, recipe: Recipe) -> ProtocolComparison:
    """Return the paper's figures of other features or crops, with a mixture of their own by the recipe's rule."""
    fitting = {role: pictures.photographs[role] for role in list_compared_roles(recipe) if role in FITTING_ROLES}
    fitted = choose_mixture(
        {role: extract(faces.crops) for role, faces in fitting.items()},
        {role: faces.sources for role, faces in fitting.items()},
        recipe.mixture,
    )
    mixture = stack_mixture(fitted.mixture)
    return compare(lambda crops: score_features(extract(crops), mixture), pictures, fitted.roles, recipe)
