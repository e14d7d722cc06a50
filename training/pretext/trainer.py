"""The training loop: it trains on faces of the role `train` and keeps the checkpoint that the recipe states.

A process can be killed at any time. When it is started again, it resumes from `last.safetensors` and computes the same
losses. The recipe's seed, the epoch and the step determine all random choices; the step determines the learning rate.
"""

import json
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import torch
from rich.console import Console
from torch import nn

from ingest.exif import TAG_NAMES
from scorer.commands.terminal import Terminal
from scorer.errors import TrainingDiverged, TrainingInterrupted
from scorer.process_exit import stop_on_signals
from training.data.manipulations import make_sampler
from training.data.shards import WIDE_SIZE, FaceSet
from training.pretext.backward import accumulate_gradients
from training.pretext.batch_makers import choose_batch_maker
from training.pretext.batches import Batch, BatchPlan, iterate_epoch
from training.pretext.checkpoints import TrainingPosition, describe_initial, load_state, save_checkpoint, save_state
from training.pretext.classes import CAMERA, list_classes
from training.pretext.distributed import Ranks, join_ranks
from training.pretext.network import MANIPULATION, PretextNetwork, load_initial
from training.pretext.optimiser import make_optimiser, rate_factor, set_rates
from training.pretext.preflight import check_faces, list_warnings
from training.pretext.run_log import RunLog, delete_later_lines
from training.pretext.train_copiers import obtain_copier
from training.pretext.validation import (
    check_control,
    figure_of_merit,
    make_copy_batches,
    make_validation_batches,
    select_validation_faces,
    validate,
)
from training.recipes import Recipe
from training.run_lock import hold_folder
from training.run_recipe import CHECKPOINT

LAST = "last.safetensors"
LOSS_NAMES = ("loss", *(f"loss_{name}" for name in TAG_NAMES), f"loss_{MANIPULATION}")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of a training that depend on the machine and not on the experiment.

    Attributes:
        init: initial weights for `load_initial`; a resumed training does not read them.
        device: of the network.
        workers: number of threads that make faces.
        save_every_s: seconds between checkpoints within an epoch; the end of each epoch always writes one.
        save_every_steps: steps between checkpoints, in addition to the seconds; None: the seconds only.
        console: shows progress and warnings.
    """

    init: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 2
    save_every_s: float = 600.0
    save_every_steps: int | None = None
    console: Console = field(default_factory=lambda: Terminal(stderr=True))


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, so that the step finishes; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with stop_on_signals(stop.set):
        yield stop


def train_extractor(  # noqa: PLR0913, PLR0917 - the network, two sets of faces, and the settings of one training
    network: PretextNetwork,
    train: FaceSet,
    held_out: FaceSet,
    recipe: Recipe,
    run: Path,
    options: TrainOptions | None = None,
) -> Path:
    """Start or resume a training and return the checkpoint of the epoch that the recipe keeps.

    It writes into `run`: `recipe.json`, `init.json` (the initial weights' origin), `best.safetensors`,
    `last.safetensors` (the state to resume from), `copiers` (the networks of a recipe with copies), one JSON line for
    each epoch to `progress.jsonl`, and event files for TensorBoard. Processes started by `torchrun` share each batch.

    Raises:
        TrainingDiverged: a loss or a weight became NaN or infinite.
        TrainingInterrupted: a signal arrived, the disk is full, or another process works in `run`; the call resumes.
        ValueError: the faces are unsuitable, `run` contains another training, or the initial weights do not fit.
    """
    options = options or TrainOptions()
    with join_ranks(options.device) as ranks, hold_folder(run) if ranks.rank == 0 else nullcontext():
        check_faces(train, held_out, recipe, ranks.count)
        training = Training(network, recipe, run, options, ranks)
        try:
            training.start(train, held_out)
        except OSError as error:
            message = f"{error.filename or run} cannot be written ({error.strerror or error}): free some space; "
            raise TrainingInterrupted(message + training.describe_resume()) from error
    return run / CHECKPOINT


@dataclass(slots=True)
class Training:
    """One training in progress."""

    network: PretextNetwork
    recipe: Recipe
    run: Path
    options: TrainOptions
    ranks: Ranks
    position: TrainingPosition = field(init=False)
    optimiser: torch.optim.Adam = field(init=False)
    extractor: nn.Module = field(init=False)
    steps: int = field(init=False)
    validation: list[Batch] = field(default_factory=list)
    copies: list[Batch] = field(default_factory=list)
    saved: float = 0.0
    saved_at: tuple[int, int] | None = None

    def start(self, train: FaceSet, held_out: FaceSet) -> None:
        """Start or resume the training and run it to its end."""
        cv2.setNumThreads(1)  # the workers are threads already; OpenCV's own would compete with the network's
        self.network.add_classifiers(list_classes(train, self.recipe.losses), self.recipe.seed)
        self.network.to(self.ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this overload
        self.optimiser = make_optimiser(self.network, self.recipe.optimiser)
        self.position = TrainingPosition(len(train))
        if (self.run / LAST).exists():
            self.position = load_state(self.run / LAST, self.network, self.optimiser, self.recipe, len(train))
            self.saved_at = (self.position.epoch, self.position.step)
        elif self.options.init is not None:
            load_initial(self.network, self.options.init)
        if self.saved_at is None and self.ranks.rank == 0:
            self.run.mkdir(parents=True, exist_ok=True)
            notes = {"recipe.json": asdict(self.recipe), "init.json": describe_initial(self.options.init)}
            for name, note in notes.items():
                (self.run / name).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        with stop_on_signal() as stop:
            copier = obtain_copier(self.run, train.wide, self.recipe, self.ranks, self.options.console, stop)
        self.extractor = self.ranks.wrap(self.network.extractor)
        sampler = make_sampler(self.recipe.preprocess.size, WIDE_SIZE, self.recipe.augment, self.recipe.seed, copier)
        plan = BatchPlan(
            train, sampler, self.recipe, self.ranks.rank, self.ranks.count, self.network.classes.get(CAMERA, ())
        )
        self.steps, maker = plan.steps, choose_batch_maker(plan, self.ranks.device)
        if self.ranks.rank == 0:
            delete_later_lines(self.run / "progress.jsonl", self.position.epoch)
            faces = select_validation_faces(held_out, self.recipe.seed)
            self.validation = make_validation_batches(faces, self.recipe)
            self.copies = make_copy_batches(faces, self.recipe, copier) if copier else []
        self.saved = time.monotonic()
        done = self.position.epoch * self.steps + self.position.step
        total = self.recipe.epochs * self.steps
        with (
            stop_on_signal() as stop,
            ThreadPoolExecutor(self.options.workers, "draw") as pool,
            RunLog(self.run, self.recipe.name, total, done, self.options.console, quiet=self.ranks.rank > 0) as log,
        ):
            random_weights = self.saved_at is None and self.options.init is None and self.recipe.backbone == "resnet50"
            for sentence in list_warnings(train, self.recipe, random_weights=random_weights):
                log.print_warning(sentence)
            while self.position.epoch < self.recipe.epochs:
                batches = iterate_epoch(plan, maker, self.position.epoch, self.position.step, pool)
                self.train_epoch(batches, log, stop)
                self.finish_epoch(log)

    def train_epoch(self, batches: Iterator[Batch], log: RunLog, stop: threading.Event) -> None:
        """Take the remaining steps of the epoch."""
        self.network.train()
        started = time.monotonic()
        position = self.position
        for batch in batches:
            if self.ranks.any_rank(here=stop.is_set()):
                self.save()
                message = f"stopped after step {position.step} of {self.steps} in epoch {position.epoch + 1}"
                message = f"{message}; {self.describe_resume()}"
                raise TrainingInterrupted(message)
            losses = self.take_step(batch.to(self.ranks.device))
            position.sums = [old + new for old, new in zip(position.sums or [0.0] * len(losses), losses, strict=True)]
            rates = [group["lr"] for group in self.optimiser.param_groups]
            log.log_step(dict(zip(self.loss_names, losses, strict=True)), rates)
            position.step += 1
            now = time.monotonic()
            position.seconds, started = position.seconds + now - started, now
            if position.step < self.steps and self.is_checkpoint_due():
                self.save()

    def take_step(self, batch: Batch) -> list[float]:
        """Train on one batch; return its losses in the order of `loss_names`."""
        position, rule = self.position, self.recipe.optimiser
        done = position.epoch * self.steps + position.step
        set_rates(self.optimiser, rule, rate_factor(rule, done, self.steps, self.recipe.epochs))
        self.optimiser.zero_grad()
        result = accumulate_gradients(self.network, self.extractor, batch, self.recipe, self.ranks)
        parts = (result.total.detach(), *result.ranking, result.manipulation, *result.classes.values())
        losses = torch.stack(parts).tolist()
        if not all(map(math.isfinite, losses)):
            self.raise_diverged(f"the loss is {losses[0]}")
        if rule.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), rule.clip_norm)
        self.optimiser.step()
        return losses

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The names of the losses of a step."""
        return (*LOSS_NAMES, *(f"loss_{task}" for task in self.network.classes))

    def is_checkpoint_due(self) -> bool:
        """Return whether a checkpoint within the epoch is due."""
        every = self.options.save_every_steps
        late = time.monotonic() - self.saved >= self.options.save_every_s
        return late or (every is not None and self.position.step % every == 0)

    def finish_epoch(self, log: RunLog) -> None:
        """Validate, log and save; set the position to the start of the next epoch."""
        position = self.position
        if self.ranks.rank == 0:
            self.check_weights()
            started = time.monotonic()
            figures = validate(self.network, self.validation, self.copies, bf16=self.recipe.bf16)
            merit = figure_of_merit(figures, self.recipe.losses)
            position.seconds += time.monotonic() - started
            means = [value / self.steps for value in position.sums]
            facts = dict(zip(self.loss_names, means, strict=True)) | figures
            facts |= {"epoch": float(position.epoch + 1), "merit": merit, "seconds": position.seconds}
            log.log_epoch(facts)
            if self.recipe.losses.manipulation_weight and (sentence := check_control(figures)):
                log.print_warning(sentence)
            # If the held-out faces give no accuracy, merits are NaN and the last epoch is chosen.
            if self.recipe.keeps == "last" or position.highest is None or not merit <= position.highest:
                position.highest = merit
                save_checkpoint(self.run / CHECKPOINT, self.network, self.recipe, facts)
        position.epoch, position.step, position.sums = position.epoch + 1, 0, []
        self.save()

    def save(self) -> None:
        """Write `last.safetensors`."""
        if self.ranks.rank == 0:
            self.check_weights()
            save_state(self.run / LAST, self.network, self.optimiser, self.recipe, self.position)
        self.saved = time.monotonic()
        self.saved_at = (self.position.epoch, self.position.step)

    def check_weights(self) -> None:
        """Refuse to save a network with a NaN or infinite weight: a finite loss can have an infinite gradient."""
        if not all(bool(values.isfinite().all()) for values in self.network.state_dict().values()):
            self.raise_diverged("a weight is no longer finite")

    def raise_diverged(self, what: str) -> None:
        """Raise `TrainingDiverged` with the step and the best checkpoint so far."""
        best = self.run / CHECKPOINT
        message = (
            f"{what} in step {self.position.step + 1} of epoch {self.position.epoch + 1}; "
            f"{best if best.exists() else 'no checkpoint'} contains the weights that were kept so far: "
            "lower the recipe's learning rates and start a new training in another run folder"
        )
        raise TrainingDiverged(message)

    def describe_resume(self) -> str:
        """Return in words how to resume."""
        if self.saved_at is None:
            return "no checkpoint was written yet, so the same command starts from the beginning"
        epoch, step = self.saved_at
        return f"the same command resumes from {self.run / LAST} (epoch {epoch + 1}, after step {step})"
