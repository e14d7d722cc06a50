"""The step `unlensed-train prepare`: from inputs to shards, indices and `prepare.json`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ingest.detect import DetectorSpec, load_detector
from training.data.chunks import Inputs, PrepareProgress, explain_interruption, prepare_photos
from training.data.cutting import FaceCutter
from training.data.detector import copy_detector
from training.data.indexing import index_run, print_report
from training.data.landmarkers import open_landmarker
from training.data.roles import RoleRule
from training.data.sources import open_source
from training.recipes import Recipe


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
        FileNotFoundError: an input, a source of the roles table or the weights of the landmarks are missing.
        TrainingInterrupted: Ctrl-C, or the disk is full; the same call resumes.
        ValueError: there is no face, an input is damaged, a source has two roles, or `run` was prepared with other
            settings.
    """
    started = time.monotonic()
    inputs = Inputs([open_source(text, roles.table or ()) for text in photos], roles)
    for source in inputs.sources:
        console.print(source.describe())
    landmarker = open_landmarker(landmarks)
    detector = load_detector(copy_detector(run, DetectorSpec()).parents[2], DetectorSpec(), threads)
    cutter = FaceCutter(detector, landmarker, recipe.preprocess, recipe.min_face_px, threads)
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
