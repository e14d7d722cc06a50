"""`unlensed-train`: photographs to bundle, one command a step; every step reads and writes one run folder."""

import json
import os
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from ingest.detect import DetectorSpec, load_detector
from ingest.spec import PreprocessSpec
from training.data.landmarks import load_landmark_net
from training.data.photos import read_photos, read_roles
from training.data.prepare import FaceCutter, prepare_sources
from training.data.shards import load_role
from training.detector import copy_detector
from training.recipes import RECIPES
from training.steps import build_engine, calibrate_run, evaluate_run, fit_run, write_bundle
from training.trainer import TrainingDiverged, train_extractor

BAD_DATA = 65
app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(stderr=True)
Run = Annotated[Path, typer.Argument(help="The run folder.")]


def check_recipe(name: str) -> str:
    """Return `name`, or end with a usage error that lists the recipes."""
    if name not in RECIPES:
        message = f"no recipe {name!r}; use one of {', '.join(RECIPES)}"
        raise typer.BadParameter(message)
    return name


RecipeName = Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.", callback=check_recipe)]
Threads = Annotated[int, typer.Option(help="CPU threads.", min=1)]
CORES = len(os.sched_getaffinity(0))


@app.command()
def prepare(
    out: Run,
    photos: Annotated[Path, typer.Option(help="Folder of photographs, one folder a source.")],
    sources: Annotated[Path, typer.Option(help="Table with the columns repo and role.")],
    landmarks: Annotated[Path, typer.Option(help="Folder of face_landmark_68_model.*")],
    recipe: RecipeName = "starter",
) -> None:
    """Find, cut and describe the faces of the photographs. Sources that are done are not done again."""
    rule = RECIPES[recipe]()
    detector = load_detector(copy_detector(out, DetectorSpec()).parents[2], DetectorSpec(), CORES)
    cutter = FaceCutter(detector, load_landmark_net(landmarks), PreprocessSpec(), rule.min_face_px, CORES)
    found, dropped = read_photos(photos, read_roles(sources))
    prepare_sources(found, cutter, out, console)
    report = {"photographs": len(found), "dropped": dropped | dict(cutter.dropped)}
    (out / "prepare.json").write_text(json.dumps(report, indent=1) + "\n")
    console.print(report)


@app.command()
def train(run: Run, recipe: RecipeName = "starter", threads: Threads = CORES) -> None:
    """Train the extractor on the role `train`; the role `fit` chooses the checkpoint."""
    from training.network import build_network  # noqa: PLC0415 - the backbone's package is slow to import

    torch.set_num_threads(threads)
    rule = RECIPES[recipe]()
    network = build_network(rule)
    train_extractor(network, load_role(run, "train"), load_role(run, "fit"), rule, run)


@app.command()
def fit(run: Run, recipe: RecipeName = "starter", threads: Threads = CORES) -> None:
    """Build the engine at the recipe's precision and fit the mixture on features through it."""
    rule = RECIPES[recipe]()
    build_engine(run, rule, rule.precision)
    console.print(fit_run(run, rule, threads))


@app.command()
def calibrate(run: Run, threads: Threads = CORES) -> None:
    """Score the role `calibrate`, which p-values are counted against."""
    console.print(calibrate_run(run, threads))


@app.command()
def evaluate(
    run: Run,
    generated: Annotated[Path, typer.Option(help="Folder of generated faces, one folder a generator.")],
    recipe: RecipeName = "starter",
    threads: Threads = CORES,
) -> None:
    """Measure AUC per generator with its confound controls, false alarms, and the engine's drift."""
    console.print(evaluate_run(run, generated, RECIPES[recipe](), threads))


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="The bundle's folder; its content is replaced.")],
    recipe: RecipeName = "starter",
    threads: Threads = CORES,
) -> None:
    """Write the bundle: engine, mixture, calibration, golden faces, detector, card, manifest."""
    folder = write_bundle(run, RECIPES[recipe](), threads)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    console.print(f"{out}: {sum(path.stat().st_size for path in out.rglob('*') if path.is_file()):,} bytes")


def main() -> None:
    """Run the command line; data errors end in one sentence and exit code 65."""
    try:
        app()
    except (FileNotFoundError, ModuleNotFoundError, ValueError, TrainingDiverged) as error:
        console.print(f"[red]{type(error).__name__}:[/red] {error}", highlight=False)
        raise SystemExit(BAD_DATA) from error
