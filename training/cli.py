"""The command `unlensed-train`: one command for each step from photographs to a bundle."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from ingest.device import DeviceUnavailable, Request, resolve_device
from scorer.bundle.manifest import BatchProfile, Target
from scorer.commands.command_line import CommandGroup, VersionOption, local_path, run_command
from scorer.commands.terminal import Terminal
from scorer.errors import Exit, UsageError, describe_exits
from training.cli_detectors import baseline, compare
from training.cli_options import CORES, Run, Threads, console, split_pairs
from training.export.target import PRECISIONS, Deployment
from training.recipes import RECIPES, Precision, find_recipe


class TrainingGroup(CommandGroup):
    """The commands of `unlensed-train`."""

    needed = ("train",)


app = typer.Typer(
    cls=TrainingGroup,
    help="Train a bundle from photographs, one command for each step. Each step reads and writes one run folder.",
    epilog=describe_exits(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# The exit code of each built-in exception that the steps raise; the first matching class decides.
EXITS_BY_ERROR: dict[type[Exception], Exit] = {
    DeviceUnavailable: Exit.BAD_CONFIGURATION,
    FileNotFoundError: Exit.BAD_DATA,
    ModuleNotFoundError: Exit.BAD_DATA,
    ValueError: Exit.BAD_DATA,
    OSError: Exit.TRY_AGAIN,
}


@app.callback()
def start(
    *,
    version: VersionOption = False,
) -> None:
    """Train a bundle from photographs, one command for each step. Each step reads and writes one run folder."""


def check_recipe(name: str) -> str:
    """Return `name`, or raise a usage error that lists the recipes."""
    if name not in RECIPES:
        message = f"there is no recipe {name!r}; use one of {', '.join(RECIPES)}"
        raise typer.BadParameter(message)
    return name


RecipeName = Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.", callback=check_recipe)]
TargetName = Annotated[Target, typer.Option(help="The engine's runtime: openvino on CPUs, tensorrt on GPUs.")]
PrecisionName = Annotated[
    Precision | None,
    typer.Option(help="The engine's precision. Default: the recipe's for openvino, fp16 for tensorrt."),
]
OPTIMAL_BATCH = 64


def choose_deployment(
    target: Target, precision: Precision | None, recipe: str = "starter", max_batch: int = 256
) -> Deployment:
    """Return the engine that the options name, or raise a usage error."""
    chosen = precision or ("fp16" if target == "tensorrt" else RECIPES[recipe]().precision)
    if chosen not in PRECISIONS[target]:
        message = f"{chosen} is for GPUs (--target tensorrt); {target} supports {', '.join(PRECISIONS[target])}"
        raise typer.BadParameter(message)
    return Deployment(target, chosen, BatchProfile(opt=min(OPTIMAL_BATCH, max_batch), max=max_batch))


def find_fitted(
    run: Path, target: Target, precision: Precision | None, recipe: str = "starter", max_batch: int = 256
) -> Deployment:
    """Return the engine that the options name, at the precision of its `fit`.

    Raises:
        FileNotFoundError: `fit` has not been run for this target.
        UsageError: `precision` is another one.
    """
    from training.steps import find_deployment

    found = find_deployment(run, choose_deployment(target, precision, recipe, max_batch))
    if precision not in {None, found.precision}:
        message = (
            f"{run} was fitted with the precision {found.precision}, not {precision}: run `fit` again, or leave it out"
        )
        raise UsageError(message)
    return found


def split_counts(text: str) -> list[int]:
    """Return the numbers of a list such as 1,2,4 in ascending order, or raise a usage error."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and int(part) for part in parts):
        message = f"{text!r} is no list of whole numbers from 1, such as 1,2,4,8"
        raise typer.BadParameter(message)
    return sorted({int(part) for part in parts})


@app.command()
def prepare(  # noqa: PLR0913, PLR0917 - one parameter an option
    out: Run,
    photos: Annotated[
        list[str] | None,
        typer.Option(
            help="Photographs: a folder with one folder for each source, FDF, CelebA-HQ, *.parquet, x-{00..15}.tar."
        ),
    ] = None,
    roles: Annotated[
        Path | None,
        typer.Option(
            "--roles", "--sources", help="CSV table with the columns source (or repo) and role; others are left out."
        ),
    ] = None,
    shares: Annotated[
        str,
        typer.Option(
            help="Without a table: the share of sources for each role, chosen by a hash of their names. A role that "
            "would have too few gets more."
        ),
    ] = "train=0.7,fit=0.1,calibrate=0.1,test=0.1",
    landmarks: Annotated[
        str | None, typer.Option(help="The folder of face_landmark_68_model.*, or face-alignment[:FOLDER].")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Write a PNG that shows the manipulations.", callback=local_path)
    ] = None,
    recipe: RecipeName = "starter",
) -> None:
    """Find and cut the faces of the photographs. After an interruption, the same command resumes."""
    settings = RECIPES[recipe]()
    if photos is None and preview is None:
        message = "give --photos (where the photographs are), or --preview (where to draw the prepared faces)"
        raise typer.BadParameter(message)
    if photos is not None:
        if landmarks is None:
            message = "give --landmarks: the folder of face_landmark_68_model.*, or face-alignment"
            raise typer.BadParameter(message)
        from training.data.prepare import prepare_run
        from training.data.roles import RoleRule

        prepare_run(out, photos, RoleRule.read(roles, shares), landmarks, settings, CORES, console)
    if preview is not None:
        from training.data.preview import draw_preview

        console.print(f"{preview}: {draw_preview(out, settings, preview)} faces")


@app.command(short_help="Train the extractor.")
def train(  # noqa: PLR0913, PLR0917 - one parameter an option
    run: Run,
    recipe: RecipeName = "starter",
    init: Annotated[
        Path | None, typer.Option(help="Initial weights, *.safetensors: the output of `import`, or torchvision's.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Faces of a batch, for few photographs. Default: the recipe's; the run keeps it.", min=2),
    ] = None,
    device: Annotated[Request, typer.Option(help="Where the network runs.")] = "auto",
    threads: Threads = CORES,
) -> None:
    """Train the extractor on the role `train`. The role `fit` selects the checkpoint.

    After an interruption, the same command resumes. With N GPUs:
    `torchrun --no-python --nproc-per-node N unlensed-train train RUN`.
    """
    import torch

    from training.data.shards import load_role
    from training.pretext.network import build_network
    from training.pretext.trainer import LAST, TrainOptions, train_extractor
    from training.run_recipe import check_cut

    torch.set_num_threads(threads)
    settings = find_recipe(recipe, run if (run / LAST).exists() else None, batch_size)
    check_cut(run, settings)
    network = build_network(settings)
    chosen = resolve_device(device)
    console.print(f"training on {chosen.kind}: {chosen.reason}")
    options = TrainOptions(init, torch.device(chosen.kind), workers=threads, console=console)
    train_extractor(network, load_role(run, "train"), load_role(run, "fit"), settings, run, options)


@app.command(name="import", short_help="Convert a published checkpoint to weights.")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint file as published.")],
    out: Annotated[
        Path, typer.Option(help="The *.safetensors file to write, for `train --init`.", callback=local_path)
    ],
    kind: Annotated[
        Literal["anomalies", "exif-as-language"],
        typer.Option(help="Which checkpoint it is. `anomalies` is the extractor of the paper's authors."),
    ] = "anomalies",
) -> None:
    """Convert the checkpoint of the paper's authors or of EXIF-as-language. No code in the file is run."""
    from training.pretext.import_checkpoint import import_checkpoint

    console.print(import_checkpoint(checkpoint, kind, out))


@app.command(short_help="Build the engine and fit the mixture on its features.")
def fit(  # noqa: PLR0913, PLR0917 - one parameter an option
    run: Run,
    recipe: RecipeName = "starter",
    components: Annotated[
        str,
        typer.Option(
            help="Components of the mixture instead of the recipe's: one number, or several (1,2,4,8,12,16) to compare "
            "on held-out sources of the role fit."
        ),
    ] = "",
    target: TargetName = "openvino",
    precision: PrecisionName = None,
    threads: Threads = CORES,
) -> None:
    """Build the engine and fit the mixture on its features. Each target has its own results.

    A recipe with a head fits it first: the engine contains it.
    """
    from training.run_recipe import check_recipe
    from training.step_tables import print_fit
    from training.steps import build_engine, fit_run, fit_run_head

    counts, settings = split_counts(components), find_recipe(recipe, run)
    deployment = choose_deployment(target, precision, recipe)
    check_recipe(run, settings)
    fit_run_head(run, settings, threads)
    build_engine(run, settings, deployment)
    print_fit(fit_run(run, settings, deployment, threads, components=counts), console)


@app.command(short_help="Score the held-out photographs that p-values compare with.")
def calibrate(
    run: Run, target: TargetName = "openvino", precision: PrecisionName = None, threads: Threads = CORES
) -> None:
    """Score the role `calibrate` with the engine and mixture of `fit`. P-values compare with these photographs."""
    from training.step_tables import print_calibration
    from training.steps import calibrate_run

    print_calibration(calibrate_run(run, find_fitted(run, target, precision), threads), console)


@app.command(short_help="Measure how well photographs and generated faces are separated.")
def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    run: Run,
    generated: Annotated[Path, typer.Option(help="Folder of generated faces, with one folder for each generator.")],
    features: Annotated[
        list[str] | None, typer.Option(help="Compare with clip, farl, exif_language or exif_l2r, each as NAME=PATH.")
    ] = None,
    ablation: Annotated[list[str] | None, typer.Option(help="Compare with another evaluated run, as NAME=RUN.")] = None,
    photographs: Annotated[
        Path | None,
        typer.Option(help="Folder with whole photographs in fit/ and test/, for recipes that compare whole pictures."),
    ] = None,
    recipe: RecipeName = "starter",
    target: TargetName = "openvino",
    precision: PrecisionName = None,
    threads: Threads = CORES,
) -> None:
    """Measure how well photographs and generated faces are separated; write `evaluation.html` and `evaluation.json`."""
    from training.evaluation.inputs import Comparisons
    from training.evaluation.tables import print_tables
    from training.run_recipe import check_recipe
    from training.steps import evaluate_run

    settings, pairs, runs = find_recipe(recipe, run), split_pairs(features), dict(split_pairs(ablation))
    compared = {}
    for name, path in pairs:
        from training.evaluation.features.compare import load_compared  # needs the extra `compare`

        compared[name] = load_compared(name, path, threads, settings.preprocess).extract
    check_recipe(run, settings)
    deployment = find_fitted(run, target, precision, recipe)
    extras = Comparisons(photographs=photographs, features=compared, runs=runs)
    print_tables(evaluate_run(run, generated, settings, deployment, threads, extras), Terminal())
    console.print(f"report: {deployment.results(run) / 'evaluation.html'}", soft_wrap=True)


@app.command(short_help="Write the bundle.")
def export(  # noqa: PLR0913, PLR0917 - one parameter an option
    run: Run,
    out: Annotated[Path, typer.Option(help="The bundle's folder. Its content is replaced.", callback=local_path)],
    recipe: RecipeName = "starter",
    target: TargetName = "openvino",
    precision: PrecisionName = None,
    max_batch: Annotated[
        int,
        typer.Option(help="Largest batch of a TensorRT plan, in crops. Its memory grows with it.", min=1, max=4096),
    ] = 256,
    data_licence: Annotated[
        str, typer.Option(help="What the photographs are and their licence, in one sentence for the card.")
    ] = "",
    threads: Threads = CORES,
) -> None:
    """Write the bundle: engine, mixture, calibration, golden faces, detector, card, manifest.

    For `--target tensorrt` the engine is an ONNX graph. `unlensed bundle build OUT` builds the plan from it on the
    machine that serves. On a GPU with Torch-TensorRT, TensorRT or trtexec, this command builds the plan at once.
    """
    from training.bundle import write_bundle
    from training.run_recipe import check_recipe

    settings = find_recipe(recipe, run)
    check_recipe(run, settings)
    deployment = find_fitted(run, target, precision, recipe, max_batch)
    folder = write_bundle(run, settings, deployment, threads, data_licence)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    console.print(f"{out}: {sum(path.stat().st_size for path in out.rglob('*') if path.is_file()):,} bytes")
    if target == "tensorrt":
        from training.bundle import add_plan

        console.print(add_plan(run, out, settings), soft_wrap=True)


app.command(short_help="Train a published detector to compare with.")(baseline)
app.command(short_help="Compare detectors on the same faces.")(compare)


def main() -> None:
    """Run the command line. The exit codes are those of `unlensed`."""
    run_command(app, "unlensed-train", EXITS_BY_ERROR)
