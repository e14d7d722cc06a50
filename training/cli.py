"""`unlensed-train`: photographs to bundle, one command a step; every step reads and writes one run folder."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from training.data.chunks import PrepareStopped
from training.data.roles import RoleRule
from training.data.shards import load_role
from training.recipes import RECIPES
from training.steps import build_engine, calibrate_run, evaluate_run, fit_run, write_bundle
from training.trainer import TrainingDiverged, train_extractor

BAD_DATA, TRY_AGAIN = 65, 75
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
def prepare(  # noqa: PLR0913, PLR0917 - one parameter an option
    out: Run,
    photos: Annotated[
        list[str] | None,
        typer.Option(help="Photographs: a folder with a folder a source, FDF, CelebA-HQ, *.parquet, x-{00..15}.tar."),
    ] = None,
    roles: Annotated[
        Path | None, typer.Option("--roles", "--sources", help="Table with the columns source (or repo) and role.")
    ] = None,
    shares: Annotated[
        str, typer.Option(help="Without a table: each role's share of the sources, by a hash of their names.")
    ] = "train=0.7,fit=0.1,calibrate=0.1,test=0.1",
    landmarks: Annotated[
        str | None, typer.Option(help="Folder of face_landmark_68_model.*, or face-alignment[:FOLDER].")
    ] = None,
    preview: Annotated[Path | None, typer.Option(help="Write a contact sheet of the manipulations (PNG).")] = None,
    recipe: RecipeName = "starter",
) -> None:
    """Find, cut and describe the faces of the photographs. Ended at any point, the same command goes on from there."""
    from training.data.prepare import prepare_run  # noqa: PLC0415 - DALI and OpenVINO are slow to import
    from training.data.preview import draw_preview  # noqa: PLC0415 - likewise imgaug

    rule = RECIPES[recipe]()
    if photos is None and preview is None:
        message = "say with --photos where photographs are, or with --preview where to draw the prepared faces"
        raise typer.BadParameter(message)
    if photos is not None:
        if landmarks is None:
            message = "choose with --landmarks: the folder of face_landmark_68_model.*, or face-alignment"
            raise typer.BadParameter(message)
        try:
            prepare_run(out, photos, RoleRule.read(roles, shares), landmarks, rule, CORES, console)
        except PrepareStopped as error:
            console.print(str(error), style="yellow", markup=False, highlight=False)
            raise typer.Exit(TRY_AGAIN) from error
    if preview is not None:
        console.print(f"{preview}: {draw_preview(out, rule, preview)} faces")


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
