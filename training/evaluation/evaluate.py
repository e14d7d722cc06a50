"""Compute the content of `evaluation.json`, and the arrays for its charts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from scorer.commands.progress import Progress
from scorer.fitting.fit import Fitter, choose_mixture
from scorer.mixture import GaussianMixture, stack_mixture
from training.data.shards import Images
from training.evaluation.face_scorer import FaceScorer, score_features
from training.evaluation.measures import LogLikelihoods
from training.evaluation.operating_points import (
    RATES,
    judge_generators,
    measure_flagged,
    measure_separation,
    name_photographs,
    summarise_evaluation,
)
from training.evaluation.protocol import ProtocolComparison, compare_generators
from training.evaluation.robustness import draw_rows, equalise_format, evaluate_condition, list_conditions
from training.recipes import Recipe

Extract = Callable[[Images], NDArray[np.float32]]
"""Computes features [N, D] of a compared method from crops [N, S, S, 3], which may be on disk."""
FITTING_ROLES = ("train", "fit")
CHART_FACES = 300  # of each class in the t-SNE chart: more points would overlap


class PhotographFaces(Protocol):
    """Faces of photographs; `FaceSet` is one.

    Attributes:
        crops: [N, S, S, 3] uint8.
        photos: [N] name of the photograph.
        sources: [N] source of the photograph.
    """

    @property
    def crops(self) -> Images:
        """The crops of the faces."""

    @property
    def photos(self) -> NDArray[np.str_]:
        """The photograph of each face."""

    @property
    def sources(self) -> NDArray[np.str_]:
        """The source of each face's photograph."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationFaces:
    """The faces of an evaluation.

    Attributes:
        photographs: by role: `test`, on which nothing was fitted, chosen or calibrated; `calibrate`; and the roles for
            a threshold or for the mixture of other features.
        generated: crops by generator.
    """

    photographs: Mapping[str, PhotographFaces]
    generated: Mapping[str, Images]


@dataclass(frozen=True, slots=True, eq=False)
class SweptMixture:
    """The best mixture of one number of components, by held-out photographs of the role `fit`.

    Attributes:
        mixture: fitted on all faces of `roles`.
        candidate: its roles and shape in words.
        roles: that it was fitted on.
        held_out_nats: mean log-likelihood per face of photographs that were left out of a fit.
        held_out_alarms: share of these faces below the 5th percentile of the fitted ones.
    """

    mixture: GaussianMixture
    candidate: str
    roles: tuple[str, ...]
    held_out_nats: float
    held_out_alarms: float


@dataclass(frozen=True, slots=True, eq=False)
class FigureData:
    """The data of the charts: log-likelihoods in nats, features [N, D], and the class [N] of each feature row."""

    photographs: LogLikelihoods
    generated: dict[str, LogLikelihoods]
    calibration: LogLikelihoods
    features: NDArray[np.float32]
    classes: NDArray[np.str_]


def evaluate_faces(
    scorer: FaceScorer, pictures: EvaluationFaces, console: Console
) -> tuple[dict[str, object], FigureData]:
    """Return the report's sections `verdict`, `operating_points` and `robustness`, and the data of the charts.

    Raises:
        ValueError: a face has no finite log-likelihood.
    """
    test, generated = pictures.photographs["test"], pictures.generated
    origins = test.sources, test.photos
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
        message = "a face has no finite log-likelihood: check the engine and the mixture, and run `fit` again"
        raise ValueError(message)
    photographs, others = raw.pop(""), raw
    plain = measure_separation(photographs, origins, others)
    equalised = measure_separation(equal.pop(""), origins, equal)
    flagged = {rate: measure_flagged(photographs, origins, others, calibration, rate) for rate in RATES}
    verdicts = judge_generators(plain, equalised)
    report: dict[str, object] = {
        "verdict": {
            "summary": summarise_evaluation(verdicts, flagged[RATES[0]], RATES[0]),
            "generators": {name: asdict(verdict) for name, verdict in verdicts.items()},
        },
        "operating_points": {
            "flagged": {f"{rate:g}": asdict(row) for rate, row in flagged.items()},
            "raw": asdict(plain),
            "format_equalised": asdict(equalised),
        },
        "robustness": measure_robustness(scorer, pictures, calibration, console),
    }
    return report, FigureData(photographs, others, calibration, *sample_features(embedded))


def compare_by_protocol(
    score_crops: Callable[[Images], LogLikelihoods],
    pictures: EvaluationFaces,
    fitted_roles: Sequence[str],
    recipe: Recipe,
) -> ProtocolComparison:
    """Return the metrics of the paper's protocol.

    Args:
        score_crops: returns the log-likelihoods of crops.
        pictures: the faces to compare.
        fitted_roles: roles that the mixture of `score_crops` was fitted on.
        recipe: names the photographs of the threshold.
    """
    roles = fitted_roles if recipe.threshold_on == "train" else ("calibrate",)
    return compare_generators(
        np.concatenate([score_crops(pictures.photographs[role].crops) for role in roles]),
        score_crops(pictures.photographs["test"].crops),
        {name: score_crops(crops) for name, crops in pictures.generated.items()},
    )


def describe_comparison(comparison: ProtocolComparison, recipe: Recipe) -> dict[str, object]:
    """Return the fields of a comparison and its settings."""
    return asdict(comparison) | {"threshold_on": recipe.threshold_on, "test_crop": recipe.test_crop}


def measure_robustness(
    scorer: FaceScorer, pictures: EvaluationFaces, calibration: LogLikelihoods, console: Console
) -> list[dict[str, object]]:
    """Return one entry for each condition."""
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
    """Return features [n, D] of at most `CHART_FACES` faces of each class, and their classes [n]; "" is photographs."""
    rng = np.random.default_rng(2024)
    drawn = {name: features[rng.permutation(len(features))[:CHART_FACES]] for name, features in embedded.items()}
    classes = np.repeat(np.array(list(drawn)), [len(features) for features in drawn.values()])
    return np.concatenate(list(drawn.values())), classes


def list_compared_roles(recipe: Recipe) -> list[str]:
    """Return the roles that `compare_features` needs."""
    fitted = {role for roles in recipe.mixture.role_sets for role in roles} | {"fit"}
    return sorted(fitted | {"test"} | ({"calibrate"} if recipe.threshold_on == "calibrate" else set()))


def compare_features(extract: Extract, pictures: EvaluationFaces, recipe: Recipe) -> ProtocolComparison:
    """Return the metrics of the paper's protocol for other features or crops; the same rule fits their mixture."""
    fitting = {role: pictures.photographs[role] for role in list_compared_roles(recipe) if role in FITTING_ROLES}
    fitted = choose_mixture(
        {role: extract(faces.crops) for role, faces in fitting.items()},
        {role: faces.sources for role, faces in fitting.items()},
        Fitter(recipe.mixture),
    )
    mixture = stack_mixture(fitted.mixture)
    return compare_by_protocol(
        lambda crops: score_features(extract(crops), mixture), pictures, fitted.candidate.roles, recipe
    )


def compare_components(
    scorer: FaceScorer, pictures: EvaluationFaces, sweep: Mapping[int, SweptMixture], recipe: Recipe
) -> dict[str, dict[str, object]]:
    """Return, for each number of components, how its mixture was judged and the metrics of the paper's protocol.

    Generated faces do not choose the number: `fit` chose it by the likelihood of held-out photographs.
    """
    if not sweep:
        return {}
    on_train = recipe.threshold_on == "train"
    roles = {role for swept in sweep.values() for role in swept.roles} if on_train else {"calibrate"}
    real = {role: scorer.embed(pictures.photographs[role].crops) for role in roles | {"test"}}
    generated = {name: scorer.embed(crops) for name, crops in pictures.generated.items()}
    rows: dict[str, dict[str, object]] = {}
    for count, swept in sweep.items():
        mixture = stack_mixture(swept.mixture)
        threshold = [score_features(real[role], mixture) for role in (swept.roles if on_train else ("calibrate",))]
        comparison = compare_generators(
            np.concatenate(threshold),
            score_features(real["test"], mixture),
            {name: score_features(features, mixture) for name, features in generated.items()},
        )
        rows[str(count)] = {
            "candidate": swept.candidate,
            "held_out_nats": swept.held_out_nats,
            "held_out_alarms": swept.held_out_alarms,
            "average": asdict(comparison.average),
        }
    return rows
