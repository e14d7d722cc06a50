"""Compute the content of `evaluation.json`, and the arrays for its charts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ingest.spec import PreprocessSpec
from scorer.commands.progress import Progress
from scorer.decide import Calibration
from scorer.fitting.fit import Fitter, choose_mixture
from scorer.mixture import GaussianMixture, stack_mixture
from scorer.strata import Stratum, stratum_of
from training.data.shards import Images
from training.evaluation.face_scorer import FaceScorer, score_features
from training.evaluation.measures import LogLikelihoods
from training.evaluation.operating_points import (
    RATES,
    FlaggedCount,
    Origins,
    Separation,
    describe_support,
    find_finest_rate,
    judge_generators,
    measure_flagged,
    measure_separation,
    serve_p_values,
    summarise_evaluation,
)
from training.evaluation.protocol import ProtocolComparison, compare_generators
from training.evaluation.robustness import AS_STORED, EQUALISED, Condition, list_conditions
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


class ServedFaces(Protocol):
    """Faces as the scorer cuts them, and what decides their strata; `FaceSet` and `CutPictures` are some.

    Attributes:
        crops: [N, S, S, 3] uint8.
        wide: [N, W, W, 3] uint8, the same windows at a higher resolution.
        short_sides: [N] of the visible parts of the boxes in pixels.
        jpeg_qualities: [N], 1..100; 0 if a picture is no JPEG.
    """

    @property
    def crops(self) -> Images:
        """The crops of the faces."""

    @property
    def wide(self) -> Images:
        """Their windows at a higher resolution."""

    @property
    def short_sides(self) -> NDArray[np.float64]:
        """The short sides of the faces in pixels."""

    @property
    def jpeg_qualities(self) -> NDArray[np.int16]:
        """The JPEG qualities of their pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutPhotographs:
    """The calibration of the run, and the number of photographs of each of its parts: "all" and the strata in use."""

    calibration: Calibration
    photographs: Mapping[str, int]


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
    """The data of the charts.

    Attributes:
        photographs, generated: log-likelihoods in nats.
        p_values: as served, by generator; "" is photographs.
        calibration: log-likelihoods of all held-out faces, ascending.
        features: [N, D].
        classes: [N], of each feature row.
    """

    photographs: LogLikelihoods
    generated: dict[str, LogLikelihoods]
    p_values: dict[str, LogLikelihoods]
    calibration: LogLikelihoods
    features: NDArray[np.float32]
    classes: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class ConditionOutcome:
    """The metrics of faces that were processed in one way, as a bundle would serve them."""

    separation: Separation
    flagged: dict[float, FlaggedCount]
    faces: int
    left_out: int

    def summarise(self, name: str) -> dict[str, object]:
        """Return the row of the report's table."""
        lowest = self.separation.find_lowest() if self.separation.auc else None
        return {
            "name": name,
            "faces": self.faces,
            "left_out": self.left_out,
            "mean_auc": asdict(self.separation.mean_auc) if self.separation.mean_auc else None,
            "lowest": {"name": lowest, "auc": self.separation.auc[lowest].value} if lowest else None,
            "auc": {generator: rate.value for generator, rate in self.separation.auc.items()},
            "flagged": {f"{rate:g}": row.mean for rate, row in self.flagged.items()},
            "false_alarms": {
                f"{rate:g}": asdict(row.photographs) if row.photographs else None for rate, row in self.flagged.items()
            },
            "control": asdict(self.separation.control) if self.separation.control else None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Scores test photographs and generated faces as a bundle with the run's calibration would.

    Attributes:
        scorer: the engine and the mixture.
        spec: how a face is cut.
        held_out: the calibration.
        test: faces of photographs on which nothing was fitted, chosen or calibrated.
        origins: of these photographs.
        generated: faces by generator.
    """

    scorer: FaceScorer
    spec: PreprocessSpec
    held_out: HeldOutPhotographs
    test: ServedFaces
    origins: Origins
    generated: Mapping[str, ServedFaces]

    def serve(self, likelihoods: LogLikelihoods, strata: Sequence[Stratum]) -> LogLikelihoods:
        """Return the p-values of faces.

        Raises:
            ValueError: a face has no finite log-likelihood.
        """
        if not np.isfinite(likelihoods).all():
            message = "a face has no finite log-likelihood: check the engine and the mixture, and run `fit` again"
            raise ValueError(message)
        return serve_p_values(likelihoods, strata, self.held_out.calibration)

    def process(self, condition: Condition, faces: ServedFaces) -> LogLikelihoods:
        """Return the p-values of all faces after processing; NaN for a face that becomes too small to be scored."""
        values = self.scorer.log_likelihoods(faces.wide, condition.make_alteration(faces.short_sides, self.spec))
        p_values = self.serve(values, condition.find_strata(faces.short_sides))
        p_values[~condition.find_scored(faces.short_sides)] = np.nan
        return p_values

    def measure(self, p_values: Mapping[str, LogLikelihoods]) -> ConditionOutcome:
        """Return the metrics of p-values by generator; "" is photographs. Faces without a p-value are left out."""
        scored = {name: values[~np.isnan(values)] for name, values in p_values.items()}
        kept = ~np.isnan(p_values[""])
        sources, photos = self.origins
        origins = sources[kept], photos[kept]
        generated = {name: values for name, values in scored.items() if name and len(values)}
        finest = find_finest_rate(self.held_out.calibration)
        return ConditionOutcome(
            measure_separation(scored[""], origins, generated),
            {rate: measure_flagged(scored[""], origins, generated, rate, finest) for rate in RATES},
            faces=len(scored[""]),
            left_out=sum(map(len, p_values.values())) - sum(map(len, scored.values())),
        )

    def evaluate(self, console: Console) -> tuple[dict[str, object], FigureData]:
        """Return the report's sections `verdict`, `operating_points` and `robustness`, and the data of the charts.

        Raises:
            ValueError: a face has no finite log-likelihood.
        """
        sets = {"": self.test, **self.generated}
        conditions = list(list_conditions())
        embedded, served, outcomes = {}, {}, {}
        with Progress("scoring", len(sets) * (1 + len(conditions)), "sets", console, summary=True) as progress:
            for name, faces in sets.items():
                embedded[name] = self.scorer.embed(faces.crops)
                progress.advance()
            likelihoods = {name: self.scorer.score_features(features) for name, features in embedded.items()}
            served = {
                name: self.serve(values, find_strata(sets[name].short_sides, sets[name].jpeg_qualities))
                for name, values in likelihoods.items()
            }
            outcomes[AS_STORED] = self.measure(served)
            for condition in conditions:
                processed = {}
                for name, faces in sets.items():
                    processed[name] = self.process(condition, faces)
                    progress.advance()
                if not np.isnan(processed[""]).all():
                    outcomes[condition.name] = self.measure(processed)
        photographs = likelihoods.pop("")
        calibration = np.sort(self.held_out.calibration.pooled)
        return self._report(outcomes), FigureData(
            photographs, likelihoods, served, calibration, *sample_features(embedded)
        )

    def _report(self, outcomes: Mapping[str, ConditionOutcome]) -> dict[str, object]:
        raw, equalised = outcomes[AS_STORED], outcomes[EQUALISED]
        verdicts = judge_generators(raw.separation, equalised.separation)
        return {
            "verdict": {
                "summary": summarise_evaluation(verdicts, equalised.separation, equalised.flagged),
                "support": [describe_support(self.held_out.photographs, raw.flagged[rate], rate) for rate in RATES],
                "generators": {name: asdict(verdict) for name, verdict in verdicts.items()},
            },
            "operating_points": {
                "flagged": {f"{rate:g}": asdict(row) for rate, row in raw.flagged.items()},
                "flagged_equalised": {f"{rate:g}": asdict(row) for rate, row in equalised.flagged.items()},
                "raw": asdict(raw.separation),
                "format_equalised": asdict(equalised.separation),
            },
            "robustness": [outcome.summarise(name) for name, outcome in outcomes.items()],
        }


def find_strata(short_sides: NDArray[np.float64], jpeg_qualities: NDArray[np.int16]) -> list[Stratum]:
    """Return the strata of faces in their own pictures, by the scorer's rule."""
    pairs = zip(short_sides, jpeg_qualities, strict=True)
    return [stratum_of(round(float(side), 1), int(quality) or None) for side, quality in pairs]


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
