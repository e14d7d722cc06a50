"""Train a detector of the catalogue on real faces and those of one generator, as the paper does (section III-B).

A process can be killed at any time. When it is started again, it resumes from `last.safetensors` and computes the same
weights: the seed and the step determine all random choices. Ten times, the held-out pictures are scored; the weights
with the highest accuracy are kept.
"""

import math
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from scorer.commands.terminal import Terminal
from scorer.errors import TrainingDiverged, TrainingInterrupted
from training.evaluation.detectors.base import Design, DetectorNetwork, NetworkDetector, TrainRule
from training.evaluation.detectors.baseline import (
    LAST,
    NOTE,
    check_given,
    describe_design,
    describe_files,
    find_folder,
    list_trained,
    load_published,
    load_trained,
    require_published,
    write_facts,
    write_weights,
)
from training.evaluation.detectors.pictures import SEED, BatchMaker, TrainingPictures
from training.evaluation.measures import auc
from training.pretext.checkpoints import list_moments, read_notes, restore_moments, write_tensors
from training.pretext.run_log import LOG_FILE, RunLog, delete_later_lines
from training.pretext.trainer import stop_on_signal
from training.run_lock import hold_folder

VALIDATIONS = 10


@dataclass(frozen=True, slots=True)
class BaselineOptions:
    """Options of a training.

    Attributes:
        steps, batch_size: instead of the publication's.
        seed: of all random choices.
        files: of the design, by name.
        init: published weights, or those of another baseline, with which the training begins.
        device: of the network.
        workers: number of threads that make inputs.
        save_every_s: seconds between checkpoints; each validation writes one, too.
        console: shows progress.
    """

    steps: int | None = None
    batch_size: int | None = None
    seed: int = SEED
    files: Mapping[str, Path] = field(default_factory=dict)
    init: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 2
    save_every_s: float = 600.0
    console: Console = field(default_factory=lambda: Terminal(stderr=True))

    def check(self, design: Design) -> None:
        """Check the files before the work.

        Raises:
            ValueError: the design has no file of that name.
            WeightsAbsent: a file is missing.
        """
        check_given(design, self.files)
        if self.init is not None:
            require_published(design, self.init)


@dataclass(slots=True)
class Position:
    """The state of a training beside its tensors.

    Attributes:
        step: number of finished steps.
        losses: number and sum of the losses since the last validation.
        best: the validation with the highest accuracy, the latest of equal ones; empty before the first one.
        seconds: training time so far.
    """

    step: int = 0
    losses: tuple[int, float] = (0, 0.0)
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def train_baseline(
    design: Design, pictures: TrainingPictures, run: Path, options: BaselineOptions | None = None
) -> dict[str, Any]:
    """Start or resume a training in `RUN/baselines/NAME`, and return the content of `baseline.json`.

    It writes `weights.safetensors` (the selected weights), `last.safetensors` (the state to resume from), a line for
    each validation to `progress.jsonl`, event files for TensorBoard, and at the end `baseline.json`.

    Raises:
        TrainingDiverged: a loss or a weight became NaN or infinite.
        TrainingInterrupted: a signal arrived, the disk is full, or another process trains it; the same call resumes.
        ValueError: the folder contains another training.
        WeightsAbsent: a file is missing.
        WrongWeights: a file contains something else.
    """
    options = options or BaselineOptions()
    options.check(design)
    training = BaselineTraining(design, pictures, find_folder(run, design.name), options)
    with hold_folder(training.folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        training.open()
        try:
            return training.run()
        except OSError as error:
            message = f"{error.filename or run} cannot be written ({error.strerror or error}): free some space; "
            raise TrainingInterrupted(message + training.describe_resume()) from error


@dataclass(slots=True)
class BaselineTraining:
    """One training in progress."""

    design: Design
    pictures: TrainingPictures
    folder: Path
    options: BaselineOptions
    steps: int = field(init=False)
    batch_size: int = field(init=False)
    network: DetectorNetwork = field(init=False)
    optimiser: torch.optim.Optimizer = field(init=False)
    files: dict[str, dict[str, str]] = field(init=False)
    identity: dict[str, Any] = field(init=False)
    position: Position = field(default_factory=Position)
    saved: float = 0.0
    saved_step: int | None = None

    def __post_init__(self) -> None:
        self.steps = self.options.steps or self.design.rule.steps
        self.batch_size = self.options.batch_size or self.design.rule.batch_size

    def run(self) -> dict[str, Any]:
        """Take the remaining steps and write `baseline.json`."""
        cv2.setNumThreads(1)  # the workers are threads already
        self.saved = time.monotonic()
        maker = BatchMaker(self.design, self.pictures, self.batch_size, self.options.seed)
        with (
            stop_on_signal() as stop,
            ThreadPoolExecutor(self.options.workers, "draw") as pool,
            RunLog(self.folder, self.design.name, self.steps, self.position.step, self.options.console) as log,
        ):
            for inputs, labels in maker.iterate(self.position.step, self.steps, pool):
                self.check_stop(stop)
                started = time.monotonic()
                log.log_step({"loss": self.take_step(inputs, labels)}, [self.design.rule.rate])
                self.position.seconds += time.monotonic() - started
                if self.is_validation_due():
                    self.validate(log)
                    self.save()
                elif time.monotonic() - self.saved >= self.options.save_every_s:
                    self.save()
        facts = self.describe()
        write_facts(self.folder, facts)
        return facts

    def open(self) -> None:
        """Build the network, and load the initial weights or the last state."""
        self.network = self.design.build(self.options.files)
        self.network.to(self.options.device)
        self.optimiser = make_optimiser(self.network, self.design.rule)
        files = dict(self.options.files)
        if self.options.init is not None:
            files["init"] = self.options.init
        self.files = describe_files(files)
        self.identity = {
            "detector": self.design.name,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "seed": self.options.seed,
            "pictures": self.pictures.digest,
            "files": {name: facts["sha256"] for name, facts in self.files.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LAST
        if path.exists():
            notes = read_notes(path)
            self.check_identity(path, notes)
            self.position = Position(**notes["position"])
            self.saved_step = self.position.step
            load_trained(self.design, self.network, path)
            restore_moments(self.network, self.optimiser, load_file(path))
        elif self.options.init is not None:
            load_published(self.design, self.network, self.options.init)
        delete_later_lines(self.folder / LOG_FILE, self.position.step, "step")

    def check_identity(self, path: Path, notes: Mapping[str, Any]) -> None:
        """Raise `ValueError` if `path` is of a training with other settings, pictures or files."""
        before = notes.get(NOTE, {})
        if differing := [name for name, value in self.identity.items() if before.get(name) != value]:
            message = (
                f"{path} was trained with another {' and '.join(differing)}: finish it with those, or delete "
                f"{path.parent} to start a new training"
            )
            raise ValueError(message)

    def check_stop(self, stop: threading.Event) -> None:
        """Save and raise `TrainingInterrupted` after a signal."""
        if stop.is_set():
            self.save()
            message = f"stopped after step {self.position.step} of {self.steps}; {self.describe_resume()}"
            raise TrainingInterrupted(message)

    def take_step(self, inputs: Tensor, labels: Tensor) -> float:
        """Train on one batch; return its loss."""
        self.network.train()
        torch.manual_seed(int(np.random.SeedSequence((self.options.seed, self.position.step)).generate_state(1)[0]))
        self.optimiser.zero_grad()
        loss = self.network.loss(inputs.to(self.options.device), labels.to(self.options.device))
        value = loss.item()
        if not math.isfinite(value):
            self.raise_diverged(f"the loss is {value}")
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        self.optimiser.step()
        self.position.step += 1
        count, total = self.position.losses
        self.position.losses = (count + 1, total + value)
        return value

    def is_validation_due(self) -> bool:
        """Return whether another tenth of the steps is finished."""
        done = self.position.step
        return done * VALIDATIONS // self.steps > (done - 1) * VALIDATIONS // self.steps

    def validate(self, log: RunLog) -> None:
        """Score the held-out pictures, log the figures, and keep the weights if they are the best so far."""
        self.check_weights()
        started, position = time.monotonic(), self.position
        count, total = position.losses
        figures = measure_accuracy(self.design, self.network, self.pictures, self.options.device)
        position.seconds += time.monotonic() - started
        line = {"step": float(position.step), "loss": total / count, **figures, "seconds": position.seconds}
        log.log_epoch(line)
        position.losses = (0, 0.0)
        if not position.best or figures["accuracy"] >= position.best["accuracy"]:
            position.best = {"step": line["step"], **figures}
            write_weights(self.folder, self.design, self.network)

    def save(self) -> None:
        """Write `last.safetensors`."""
        self.check_weights()
        state = list_trained(self.design, self.network) | list_moments(self.network, self.optimiser)
        write_tensors(self.folder / LAST, state, {NOTE: self.identity, "position": self.position})
        self.saved, self.saved_step = time.monotonic(), self.position.step

    def check_weights(self) -> None:
        """Refuse to keep a network with a NaN or infinite weight."""
        if not all(bool(values.isfinite().all()) for values in list_trained(self.design, self.network).values()):
            self.raise_diverged("a weight is no longer finite")

    def raise_diverged(self, what: str) -> None:
        """Raise `TrainingDiverged` with the step."""
        message = (
            f"{what} in step {self.position.step + 1} of the training of {self.design.title}: give other initial "
            f"weights or a larger --batch-size, and delete {self.folder} to start a new training"
        )
        raise TrainingDiverged(message)

    def describe(self) -> dict[str, Any]:
        """Return the content of `baseline.json`."""
        rule = asdict(self.design.rule)
        return describe_design(self.design, self.network) | {
            "weights": f"trained on real faces and faces of the generator {self.pictures.facts['generator']}",
            "steps": self.steps,
            "published_steps": self.design.rule.steps,
            "batch_size": self.batch_size,
            "published_batch_size": self.design.rule.batch_size,
            "seed": self.options.seed,
            "rule": {name: rule[name] for name in ("optimiser", "rate", "weight_decay", "betas", "momentum")},
            "data": self.pictures.facts,
            "selected": self.position.best,
            "files": self.files,
            "seconds": self.position.seconds,
        }

    def describe_resume(self) -> str:
        """Return in words how to resume."""
        if self.saved_step is None:
            return "no checkpoint was written yet, so the same command starts from the beginning"
        return f"the same command resumes from {self.folder / LAST} (after step {self.saved_step})"


def measure_accuracy(
    design: Design, network: DetectorNetwork, pictures: TrainingPictures, device: torch.device
) -> dict[str, float]:
    """Return accuracies on the held-out pictures at the threshold 0, their mean, and the AUC."""
    detector = NetworkDetector(design, network, device)
    real, generated = (
        detector.score_batch(each).astype(np.float64) for each in (pictures.held_out_real, pictures.held_out_generated)
    )
    of_real, of_generated = float((real <= 0).mean()), float((generated > 0).mean())
    return {
        "accuracy": (of_real + of_generated) / 2,
        "accuracy_real": of_real,
        "accuracy_generated": of_generated,
        "auc": auc(-real, -generated),
    }


def make_optimiser(network: DetectorNetwork, rule: TrainRule) -> torch.optim.Optimizer:
    """Return the publication's optimiser for the parameters that are not frozen."""
    trained = [values for values in network.parameters() if values.requires_grad]
    if rule.optimiser == "sgd":
        return torch.optim.SGD(trained, rule.rate, momentum=rule.momentum, weight_decay=rule.weight_decay)
    kind = torch.optim.AdamW if rule.optimiser == "adamw" else torch.optim.Adam
    return kind(trained, rule.rate, betas=rule.betas, weight_decay=rule.weight_decay)
