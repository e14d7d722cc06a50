"""The steps between training and export: engine, mixture, calibration and evaluation of one run folder."""

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from scorer.bundle.arrays import write_arrays
from scorer.bundle.calibration import write_calibration
from scorer.commands.progress import Progress
from scorer.commands.terminal import Terminal
from scorer.decide import Calibration
from scorer.fitting.calibrate import describe_calibration, describe_strata, score_held_out
from scorer.fitting.em import EmProgress
from scorer.fitting.fit import (
    FittedMixture,
    Fitter,
    choose_array_module,
    choose_mixture,
    describe_shape,
    fit_candidate,
    make_mixture,
    replace_components,
)
from scorer.mixture import GaussianMixture
from training.data.copies import make_copies, score_strata
from training.data.shards import FaceSet, Images, load_role
from training.evaluation.evaluate import SweptMixture
from training.evaluation.inputs import Comparisons, EvaluatedRun
from training.evaluation.operating_points import name_photographs
from training.evaluation.pretext import measure_pretext
from training.evaluation.run import measure_run
from training.export.features import Alteration, Extractor, embed_crops, open_extractor
from training.export.head import HeadedExtractor, fit_head, read_head, write_head
from training.export.onnx import export_onnx
from training.export.openvino import export_extractor
from training.export.target import PRECISIONS, Deployment
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import build_network
from training.recipes import Recipe
from training.run_recipe import CHECKPOINT, read_cut

FIT, MIXTURE, SWEEP, HEAD = "fit.json", "mixture.npz", "components", "head.npz"
LATER_RESULTS = ("calibration.json", "calibration.npz", "evaluation.json", "evaluation.html")  # of an earlier mixture
QUANTISATION_FACES = 192


def load_extractor(run: Path, recipe: Recipe) -> nn.Module:
    """Return the extractor of the run's best checkpoint, with the recipe's head.

    Raises:
        FileNotFoundError: the recipe has a head, which `fit_run_head` has not fitted.
    """
    network = build_network(recipe)
    load_checkpoint(run / CHECKPOINT, network)
    return HeadedExtractor(network.extractor, *read_head(run / HEAD)) if recipe.head else network.extractor


def fit_run_head(run: Path, recipe: Recipe, threads: int) -> None:
    """Fit the recipe's head on FP32 features and write `head.npz`, unless it is that of this checkpoint.

    All engines of a run have the same head. A recipe without a head is left as it is.

    Raises:
        ValueError: there are too few faces.
    """
    path, checkpoint = run / HEAD, run / CHECKPOINT
    if recipe.head is None or (path.exists() and path.stat().st_mtime >= checkpoint.stat().st_mtime):
        return
    network = build_network(recipe)
    load_checkpoint(checkpoint, network)
    write_head(path, *fit_head(embed_plain(network.extractor, run, recipe, threads), recipe.head.components))


def embed_plain(extractor: nn.Module, run: Path, recipe: Recipe, threads: int) -> NDArray[np.float32]:
    """Return the FP32 features [M, D], without the recipe's head, of the faces that this head is fitted on."""
    roles = recipe.head.roles if recipe.head else ()
    with tempfile.TemporaryDirectory() as folder:
        side = recipe.preprocess.size
        plain = export_extractor(extractor, Path(folder), "fp32", np.zeros((1, side, side, 3), np.uint8))
        engine = open_extractor(plain, recipe.feature_size, threads)
        return np.concatenate([embed_role(engine, load_role(run, role), recipe)[0] for role in roles])


def embed_role(extractor: Extractor, faces: FaceSet, recipe: Recipe) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return features [M, D] of faces and, if the recipe's mixture has them, of copies; and the face of each row."""
    copies = make_copies(faces, recipe.preprocess) if recipe.mixture.copies else []
    parts = [embed_crops(extractor, faces.crops), *(embed_crops(extractor, faces.wide, copy) for copy in copies)]
    return np.concatenate(parts), np.tile(np.arange(len(faces)), len(parts))


def build_engine(run: Path, recipe: Recipe, deployment: Deployment) -> Path:
    """Export the run's best checkpoint for `deployment`. Training photographs give the quantisation ranges."""
    extractor = load_extractor(run, recipe)
    crops = load_role(run, "train").crops
    chosen = np.random.default_rng(0).permutation(len(crops))[:QUANTISATION_FACES]
    export = export_extractor if deployment.target == "openvino" else export_onnx
    folder = deployment.engine(run).parents[2]
    return export(extractor, folder, deployment.precision, crops[chosen])


def fit_run(  # noqa: PLR0913, PLR0917 - the run, and the options of the command
    run: Path,
    recipe: Recipe,
    deployment: Deployment,
    threads: int,
    console: Console | None = None,
    components: Sequence[int] = (),
) -> dict[str, Any]:
    """Fit the mixture on the engine's features of the recipe's roles; write `mixture.npz` and `fit.json`.

    If the candidates have several numbers of components, the best mixture of each number is written to `components/`.
    Calibration and evaluation of an earlier mixture are deleted.

    Args:
        run: folder with the faces and the engine.
        recipe: names the candidates and the roles.
        deployment: the engine.
        threads: of the engine.
        console: shows progress; stderr by default.
        components: numbers of components to compare instead of the recipe's; empty for the recipe's.

    Raises:
        ValueError: too few faces or sources for any candidate.
    """
    console = console or Terminal(stderr=True)
    rule = replace_components(recipe.mixture, components) if components else recipe.mixture
    roles = sorted({role for roles in rule.role_sets for role in roles} | {"fit"})
    faces = {role: load_role(run, role) for role in roles}
    results = deployment.results(run)
    extractor = open_extractor(deployment.engine(run), recipe.output_size, threads)
    embedded = {role: embed_role(extractor, faces[role], recipe) for role in roles}
    features = {role: values for role, (values, _) in embedded.items()}
    sources = {role: faces[role].sources for role in roles}
    one_source = len(np.unique(sources["fit"])) == 1
    if one_source and len(components) > 1:  # as in CelebA-HQ, where a sweep can hold out photographs only
        sources = {role: name_photographs(faces[role].sources, faces[role].photos) for role in roles}
    sources = {role: sources[role][rows] for role, (_, rows) in embedded.items()}
    xp, device = choose_array_module()
    started = time.perf_counter()
    with Progress("fitting", None, "iterations", console) as progress:
        fitter = Fitter(rule, xp, partial(show_iteration, progress))
        fitted = choose_mixture(features, sources, fitter)
        for name in (FIT, *LATER_RESULTS):
            (results / name).unlink(missing_ok=True)
        write_mixtures(results, fitted, features, fitter)
    seconds = time.perf_counter() - started
    held_out = {str(candidate): asdict(measured) for candidate, measured in fitted.held_out.items()}
    summary: dict[str, Any] = {
        "recipe": recipe.name,
        "precision": deployment.precision,
        "shape": describe_shape(fitted.candidate.shape),
        "roles": list(fitted.candidate.roles),
        "faces": sum(len(faces[role]) for role in fitted.candidate.roles),
        "copies_of_each_face": len(features["fit"]) // len(faces["fit"]) - 1,
        "requested_components": list(components),
        "held_out_by": "photograph" if one_source else "source",
        "held_out_nats": {name: row["nats"] for name, row in held_out.items()},
        "held_out_alarms": {name: row["alarms"] for name, row in held_out.items()},
        "components": {
            str(count): {"candidate": str(each), "roles": list(each.roles)}
            for count, each in fitted.best_by_components().items()
        },
        "selection": describe_selection(faces["fit"].sources, recipe),
        "refused": {str(candidate): reason for candidate, reason in fitted.refused.items()},
        "bound_nats": fitted.em.bound_nats,
        "iterations": fitted.em.iterations,
        "converged": fitted.em.converged,
        "faces_by_component": [round(count, 1) for count in fitted.em.faces.tolist()],
        "notes": fitted.notes(),
        "device": device,
        "seconds": round(seconds, 1),
    }
    (results / FIT).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def show_iteration(progress: Progress, mixture: str, em: EmProgress) -> None:
    """Show one EM iteration. The iterations of the next mixture start from 1 again."""
    if em.iteration <= progress.done:
        progress.begin(None)
    progress.advance(em.iteration - progress.done, mixture=mixture, bound_nats=round(em.bound_nats, 4))


def describe_selection(sources_N: NDArray[np.str_], recipe: Recipe) -> str:
    """Return what else the photographs of the role `fit` decided, for reports; `sources_N` are their sources."""
    count = len(np.unique(sources_N))
    fit = f"The role fit ({count} source{'s' * (count != 1)})"
    if recipe.keeps == "last":
        return f"{fit} did not select the epoch of the training: the last one counts."
    return (
        f"{fit} also selected the epoch of the training, so its photographs may be slightly more likely under the "
        "mixture than new ones. The roles calibrate and test decided neither: thresholds and false-alarm rates are not "
        "affected."
    )


def write_mixtures(
    results: Path, fitted: FittedMixture, features: dict[str, NDArray[np.floating]], fitter: Fitter
) -> None:
    """Write the chosen mixture, and of several numbers of components the best mixture of each."""
    write_mixture(results / MIXTURE, fitted.mixture)
    shutil.rmtree(results / SWEEP, ignore_errors=True)
    for count, candidate in fitted.best_by_components().items():
        em = fitted.em if candidate == fitted.candidate else fit_candidate(features, candidate, fitter)
        write_mixture(results / SWEEP / f"{count}.npz", make_mixture(em, candidate.shape))


def write_mixture(path: Path, mixture: GaussianMixture) -> None:
    """Write a mixture, which `read_mixture` reads."""
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, asdict(mixture))


def read_mixture(path: Path) -> GaussianMixture:
    """Read a mixture that `fit_run` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return GaussianMixture(**{name: arrays[name] for name in arrays.files})


def find_deployment(run: Path, wanted: Deployment) -> Deployment:
    """Return `wanted` at the precision of the run's `fit.json`; for OpenVINO a run has one precision only.

    Raises:
        FileNotFoundError: `fit` has not been run for this target.
    """
    path = wanted.results(run) / FIT
    if not path.exists():
        message = f"{path.parent} has no {FIT}: run `unlensed-train fit` first"
        message += "" if wanted.target == "openvino" else f", with --target {wanted.target}"
        raise FileNotFoundError(message)
    return replace(wanted, precision=json.loads(path.read_text(encoding="utf-8"))["precision"])


def calibrate_run(run: Path, deployment: Deployment, threads: int) -> dict[str, Any]:
    """Score the role `calibrate` and copies of its faces with the fitted engine.

    Writes `calibration.npz` and `calibration.json`. The pooled calibration has the faces as they are; a stratum has its
    faces and, except for photographs as cameras store them, a copy of each face.

    Returns:
        The content of `calibration.json`: thresholds with their intervals, and the rates that n cannot support, of
        all photographs and of each stratum.

    Raises:
        FileNotFoundError: `fit` has not been run.
        ValueError: a face has no finite log-likelihood.
    """
    deployment = find_deployment(run, deployment)
    results = deployment.results(run)
    faces = load_role(run, "calibrate")
    mixture = read_mixture(results / MIXTURE)
    extractor = open_extractor(deployment.engine(run), mixture.means.shape[1], threads)

    def score(images: Images, alter: Alteration | None = None) -> NDArray[np.float64]:
        return score_held_out(mixture, embed_crops(extractor, images, alter))

    values = score(faces.crops)
    held_out = score_strata(faces, values, read_cut(run), score)
    strata, described = describe_strata(held_out)
    write_calibration(results / "calibration.npz", Calibration(np.sort(values), strata))
    report = describe_calibration(values, faces.photos) | {"strata": described}
    (results / "calibration.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def evaluate_run(  # noqa: PLR0913, PLR0917 - the run and what it is compared with
    run: Path,
    generated: Path,
    recipe: Recipe,
    deployment: Deployment,
    threads: int,
    comparisons: Comparisons | None = None,
) -> dict[str, Any]:
    """Measure the run on the role `test` and on generated pictures; write `evaluation.json` and `evaluation.html`.

    Args:
        run: folder that was prepared, trained, fitted and calibrated.
        generated: folder with one folder of pictures for each generator.
        recipe: of the run.
        deployment: the engine; a graph for TensorRT is executed by onnxruntime on the CPU.
        threads: CPU threads.
        comparisons: other features, other runs and whole photographs to compare with.

    Raises:
        FileNotFoundError: an earlier step has not been run, or a folder is missing or empty.
    """
    deployment = find_deployment(run, deployment)
    results, checkpoint = deployment.results(run), run / CHECKPOINT
    fit = json.loads((results / FIT).read_text(encoding="utf-8"))
    if requested := fit.get("requested_components"):
        recipe = replace(recipe, mixture=replace_components(recipe.mixture, requested))
    engines: dict[str, Path] = {}
    for precision in PRECISIONS["openvino"] if deployment.target == "openvino" else ("fp32", deployment.precision):
        other = replace(deployment, precision=precision)
        built = engines[precision] = other.engine(run)
        if not built.exists() or built.stat().st_mtime < checkpoint.stat().st_mtime:
            build_engine(run, recipe, other)
    evaluated = EvaluatedRun(
        run=run,
        results=results,
        recipe=recipe,
        precision=deployment.precision,
        load_role=partial(load_role, run),
        mixture=read_mixture(results / MIXTURE),
        sweep=read_sweep(results, fit),
        engines=engines,
        threads=threads,
        pretext=measure_pretext(checkpoint, load_role(run, "test"), recipe),
    )
    return measure_run(evaluated, generated, comparisons or Comparisons(), Terminal(stderr=True))


def read_sweep(results: Path, fit: dict[str, Any]) -> dict[int, SweptMixture]:
    """Return the best mixture of each number of components; empty if `fit` compared one number."""
    return {
        int(count): SweptMixture(
            mixture=read_mixture(results / SWEEP / f"{count}.npz"),
            candidate=row["candidate"],
            roles=tuple(row["roles"]),
            held_out_nats=fit["held_out_nats"][row["candidate"]],
            held_out_alarms=fit["held_out_alarms"][row["candidate"]],
        )
        for count, row in fit.get("components", {}).items()
    }
