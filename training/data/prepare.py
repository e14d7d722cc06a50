"""The step `unlensed-train prepare`: from inputs to shards, indices and `prepare.json`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ingest.detect import load_detector
from ingest.exif import TAG_NAMES
from scorer.commands.terminal import Terminal
from training.data.chunks import PrepareProgress, explain_interruption, prepare_photos
from training.data.cutting import FaceCutter
from training.data.detector import SPEC, copy_detector
from training.data.indexing import index_run, print_report, print_without_role
from training.data.inputs import Inputs, list_inputs
from training.data.landmarkers import open_landmarker
from training.data.minimums import compare_minimums, list_minimums, list_needs, print_minimums
from training.data.roles import RoleRule
from training.data.sources import open_source
from training.recipes import Recipe
from training.run_lock import hold_folder

WIDTH_WITHOUT_TERMINAL = 140


def prepare_run(  # noqa: PLR0913, PLR0917 - the options of the command
    run: Path,
    photos: Sequence[str],
    roles: RoleRule,
    landmarks: str,
    recipe: Recipe,
    threads: int,
    console: Console,
) -> None:
    """Write the faces of all inputs into `run` and print the report.

    Raises:
        FileNotFoundError: an input, all photographs with a role, or the weights of the landmarks are missing.
        TrainingInterrupted: Ctrl-C, the disk is full, or another process works in `run`; the same call resumes.
        ValueError: there is no face, an input is damaged, the roles table does not fit the inputs, or `run` was
            prepared with other settings or from other photographs.
    """
    started = time.monotonic()
    if not console.is_terminal:
        console = Terminal(file=console.file, width=WIDTH_WITHOUT_TERMINAL)  # rich's default is 80 columns
    sources = [open_source(text) for text in photos]
    for source in sources:
        console.print(source.describe())
    landmarker = open_landmarker(landmarks)
    with PrepareProgress("listing", None, "photographs", console) as progress, explain_interruption(run, progress):
        inputs = list_inputs(sources, roles, list_needs(recipe), progress)
    print_listing(inputs, recipe, console)
    detector = load_detector(copy_detector(run).parents[2], SPEC, threads)
    cutter = FaceCutter(detector, landmarker, recipe.preprocess, recipe.min_face_px, threads)
    with hold_folder(run):
        with PrepareProgress("preparing", None, "photographs", console) as progress:
            records = prepare_photos(run, inputs, cutter, progress)
        with explain_interruption(run, progress):
            facts = index_run(run, records, inputs, recipe) | {
                "recipe": recipe.name,
                "landmarks": landmarker.name,
                "seconds": time.monotonic() - started,
            }
            (run / "prepare.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print_report(facts, console)
    if not facts["faces"]:
        message = f"none of {facts['photographs']} photographs has a usable face: the report above lists the reasons"
        raise ValueError(message)


def print_listing(inputs: Inputs, recipe: Recipe, console: Console) -> None:
    """Print before the work whether the listed photographs can be enough."""
    rows = compare_minimums(list_minimums(recipe), inputs.count_roles())
    print_without_role(inputs.without_role, console)
    title = f"minimums of the recipe {recipe.name}, and what was listed (a photograph counts as one face)"
    print_minimums(rows, title, console)
    readings = [
        reading for source, read in inputs.readings.items() if inputs.roles[source] == "train" for reading in read
    ]
    if readings:
        known = [reading for reading in readings if reading is not None]
        complete = sum(None not in [getattr(reading.tags, name) for name in TAG_NAMES] for reading in known)
        cameras = len({reading.camera for reading in known if reading.camera})
        console.print(
            f"camera tags: {complete} of {len(readings)} photographs of the role train that were read have all four; "
            f"they are from {cameras} cameras"
        )
