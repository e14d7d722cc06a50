"""The commands of `unlensed-train` for published detectors, which the project's own method is compared with."""

from pathlib import Path
from typing import Annotated

import typer

from ingest.device import Request, resolve_device
from scorer.commands.command_line import local_path
from scorer.errors import UsageError
from scorer.settings import find_starter
from training.cli_options import CORES, Run, Threads, console, split_pairs
from training.evaluation.detectors.catalogue import DETECTORS, ONE_CLASS


def check_detector(name: str) -> str:
    """Return `name`, or raise a usage error that lists the detectors."""
    if name not in DETECTORS:
        message = f"there is no detector {name!r}; use one of {', '.join(DETECTORS)}"
        raise typer.BadParameter(message)
    return name


def baseline(  # noqa: PLR0913, PLR0917 - one parameter an option
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(DETECTORS)}.", callback=check_detector)],
    run: Run,
    real: Annotated[Path | None, typer.Option(help="Folder of photographs, with one folder for each source.")] = None,
    generated: Annotated[Path | None, typer.Option(help="Folder of pictures of one generator.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches. Default: as published.", min=1)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Faces of a batch, half of them generated. Default: as published.", min=2)
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option(help="A file that the detector is built with, as NAME=PATH.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Published weights, instead of a training.")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Published weights, or those of another baseline, to begin the training with.")
    ] = None,
    device: Annotated[Request, typer.Option(help="Where the network runs.")] = "auto",
    threads: Threads = CORES,
) -> None:
    """Train a published detector on photographs and faces of one generator, as the paper does, into `RUN/baselines`.

    Its weights are for comparisons and never enter a bundle. After an interruption, the same command resumes.
    """
    if (weights is None) == (real is None) or (real is None) != (generated is None) or (weights and init):
        message = "give --real and --generated (what to train on), or --weights (published weights)"
        raise UsageError(message)
    import torch

    from training.evaluation.detectors.baseline import STATEMENT, find_folder, import_baseline
    from training.evaluation.detectors.catalogue import find_design
    from training.evaluation.detectors.pictures import cut_pictures
    from training.evaluation.detectors.train_baseline import BaselineOptions, train_baseline

    torch.set_num_threads(threads)
    design, files = find_design(name), dict(split_pairs(file))
    if weights is not None:
        import_baseline(design, weights, run, files)
    elif real is not None and generated is not None:
        chosen = resolve_device(device)
        console.print(f"training on {chosen.kind}: {chosen.reason}")
        options = BaselineOptions(
            steps=steps,
            batch_size=batch_size,
            files=files,
            init=init,
            device=torch.device(chosen.kind),
            workers=threads,
            console=console,
        )
        options.check(design)
        pictures = cut_pictures(run, real, generated, threads, console)
        train_baseline(design, pictures, run, options)
    console.print(f"{find_folder(run, name)}: {STATEMENT}", soft_wrap=True)


def split_detectors(text: str) -> list[str]:
    """Return the names of a list, or all; raise a usage error that lists the detectors."""
    names = [*ONE_CLASS, *DETECTORS]
    chosen = names if text == "all" else list(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [name for name in chosen if name not in names]:
        message = f"there is no detector {unknown[0]!r}; use all, or some of {', '.join(names)}"
        raise typer.BadParameter(message)
    return chosen


def compare(  # noqa: PLR0913, PLR0917 - one parameter an option
    run: Run,
    real: Annotated[Path, typer.Option(help="Folder of photographs, with one folder for each source.")],
    generated: Annotated[list[str], typer.Option(help="Folder of one generator's pictures, as NAME=DIR.")],
    out: Annotated[Path, typer.Option(help="Folder of the results and scores.", callback=local_path)],
    detectors: Annotated[
        str, typer.Option(help=f"all, or some of {', '.join((*ONE_CLASS, *DETECTORS))}, separated by commas.")
    ] = "all",
    bundle: Annotated[Path | None, typer.Option(help="The bundle's folder. [default: the starter bundle]")] = None,
    file: Annotated[list[str] | None, typer.Option(help="A file that a detector needs, as NAME=PATH.")] = None,
    photographs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the photographs that bundle_l2, residuals and noiseprint are fitted on, with one folder "
            "for each source. Default: the run's role fit, at 320 px."
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Pictures of each folder, a random choice of more.", min=1)] = 5000,
    curves: Annotated[bool, typer.Option(help="Measure the robustness curves, too.")] = True,  # noqa: FBT002
    threads: Threads = CORES,
) -> None:
    """Score the same faces with every detector; write `compare.html`, `compare.csv` and `compare.json`.

    Detectors are those of `baseline` and the one-class ones. One that lacks a file or a training is left out with its
    reason. After an interruption, the same command resumes.
    """
    names, folders, files = split_detectors(detectors), dict(split_pairs(generated)), dict(split_pairs(file))
    import torch

    from training.evaluation.compare.opening import CompareOptions, compare_run

    torch.set_num_threads(threads)
    options = CompareOptions(run, real, folders, bundle or find_starter(), photographs, files, threads, most, curves)
    report = compare_run(options, names, out, console)
    for name, reason in report["left_out"].items():
        console.print(f"left out: {name}: {reason}", soft_wrap=True)
    console.print(f"report: {out / 'compare.html'}", soft_wrap=True)
