"""Train the copiers of a recipe on the faces of the role `train`, before the extractor.

Each network depends on the recipe's seed, its kind and the faces only. A finished one is written to `RUN/copiers`.
After an interruption the finished ones are loaded, and an unfinished one is trained from its start. The networks are so
small that they are trained on the CPU.
"""

import json
import math
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from scorer.commands.progress import Progress
from scorer.errors import TrainingDiverged, TrainingInterrupted
from scorer.files import replace_file
from training.data.shards import Images
from training.pretext.checkpoints import read_notes, write_tensors
from training.pretext.copier_steps import CopierSteps
from training.pretext.copiers import Copier, build_copier
from training.pretext.copying import FaceCopier
from training.pretext.distributed import Ranks
from training.recipes import CopierRule, Recipe

FOLDER, LOG_FILE = "copiers", "progress.jsonl"
PATCH_SCALES = (0.5, 1.0)
REPORTED_SHARE = 0.1  # the last part of the steps, whose mean error is reported


def obtain_copier(  # noqa: PLR0913, PLR0917 - the run, the faces and the surroundings of the training
    run: Path, wide: Images, recipe: Recipe, ranks: Ranks, console: Console, stop: threading.Event
) -> FaceCopier | None:
    """Return the trained copiers of `recipe` as one function; None if it has none. Missing networks are trained.

    Args:
        run: the run folder.
        wide: [N, W, W, 3] wide crops of the role `train`.
        recipe: the seed and the rule.
        ranks: the first one trains, the others wait.
        console: shows progress.
        stop: ends the training after the current step.

    Raises:
        TrainingDiverged: an error became NaN or infinite.
        TrainingInterrupted: `stop` was set; finished networks are kept.
        ValueError: `run` contains copiers of another training.
    """
    rule = recipe.augment.copiers
    if rule is None:
        return None
    networks = []
    for kind in rule.kinds:
        path = run / FOLDER / f"{kind}.safetensors"
        training = CopierTraining(kind, wide, recipe, rule, console)
        if ranks.rank == 0 and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            facts = training.train(stop)
            if not stop.is_set():
                log_network(path.with_name(LOG_FILE), facts)
                write_tensors(path, training.network.state_dict(), {"copier": training.describe()})
        if ranks.any_rank(here=stop.is_set()):  # the other ranks wait here
            message = f"stopped at the copier {kind}; the same command continues with it, and finished ones are kept"
            raise TrainingInterrupted(message)
        networks.append(training.load(path))
    return FaceCopier(tuple(networks))


def log_network(path: Path, facts: dict[str, float | str]) -> None:
    """Write one line for a network, instead of an earlier one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["kind"] != facts["kind"]]
    replace_file(path, "".join(f"{line}\n" for line in (*kept, json.dumps(facts))).encode())


@dataclass(slots=True)
class CopierTraining:
    """The training of one network.

    Attributes:
        kind: of the network.
        wide: [N, W, W, 3] faces.
        recipe: its seed is used.
        rule: the steps and the patches.
        console: shows progress.
        network: it has random weights until `train` or `load`.
    """

    kind: str
    wide: Images
    recipe: Recipe
    rule: CopierRule
    console: Console
    network: Copier = field(init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            self.network = build_copier(self.kind)

    def describe(self) -> dict[str, int | str]:
        """Return what the network depends on."""
        rule = self.rule
        facts = {"steps": rule.steps, "batch": rule.batch, "patch_px": rule.patch_px, "seed": self.recipe.seed}
        return {"kind": self.kind, "faces": len(self.wide), **facts}

    def load(self, path: Path) -> Copier:
        """Return the network with the weights of `path`, ready to copy.

        Raises:
            ValueError: they are of another training.
        """
        notes, wanted = read_notes(path).get("copier", {}), self.describe()
        if differing := [name for name, value in wanted.items() if notes.get(name) != value]:
            message = (
                f"{path} was trained with another {' and '.join(differing)}: "
                f"delete the folder {path.parent.name} to train the copiers again, or use another run folder"
            )
            raise ValueError(message)
        self.network.load_state_dict(load_file(path), strict=True)
        return self.network.eval().requires_grad_(requires_grad=False)

    def train(self, stop: threading.Event) -> dict[str, float | str]:
        """Train until the last step or `stop`; return the facts for the log."""
        started, errors = time.monotonic(), []
        rng = np.random.default_rng((self.recipe.seed, *self.kind.encode()))
        with (
            torch.random.fork_rng(devices=[]),
            Progress(f"copier {self.kind}", self.rule.steps, "steps", self.console) as progress,
        ):
            torch.manual_seed(int(rng.integers(2**31)))
            step = CopierSteps(self.network.train(), self.recipe, self.rule.steps)
            progress.begin(self.rule.steps)
            for number in range(self.rule.steps):
                if stop.is_set():
                    break
                errors.append(step.take(draw_patches(self.wide, self.rule, rng), number))
                if not math.isfinite(errors[-1]):
                    message = f"the error of the copier {self.kind} is {errors[-1]} in step {number + 1}"
                    raise TrainingDiverged(message)
                progress.advance(1, error=round(errors[-1], 4))
        last = errors[-max(1, round(self.rule.steps * REPORTED_SHARE)) :]
        error = float(np.mean(last)) if last else math.nan
        return {"kind": self.kind, "steps": len(errors), "error": error, "seconds": time.monotonic() - started}


def draw_patches(wide: Images, rule: CopierRule, rng: np.random.Generator) -> Tensor:
    """Return [B, 3, P, P] patches of -1..1 from random places of random faces, at random scales."""
    patches, side = [], wide.shape[1]
    for _ in range(rule.batch):
        face = wide[int(rng.integers(len(wide)))]
        length = min(side, round(rule.patch_px / rng.uniform(*PATCH_SCALES)))
        top, left = rng.integers(side - length + 1, size=2)
        patch = cv2.resize(
            face[top : top + length, left : left + length],
            (rule.patch_px, rule.patch_px),
            interpolation=cv2.INTER_AREA if length >= rule.patch_px else cv2.INTER_LINEAR,
        )
        patches.append(patch[:, ::-1] if rng.random() < 0.5 else patch)  # noqa: PLR2004 - a fair coin
    pixels = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)
