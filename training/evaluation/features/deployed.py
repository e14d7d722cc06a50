"""Features of a run of this project, from its deployed engine."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.spec import PreprocessSpec
from training.data.shards import Images
from training.export.features import extract_features
from training.recipes import exif_only


@dataclass(slots=True)
class DeployedFeatures:
    """A `FeatureExtractor` of an exported graph.

    Attributes:
        name: in the table.
        preprocess: of the recipe that the graph was trained with.
        engine: the graph.
        threads: for inference.
    """

    name: str
    preprocess: PreprocessSpec
    engine: Path
    threads: int

    def extract(self, crops_NHWC: Images) -> NDArray[np.float32]:
        """Return [N, D] features of [N, S, S, 3] crops."""
        return extract_features(self.engine, crops_NHWC, self.threads, exif_only().output_size)


def load_exif_ranking(run: Path, threads: int, cut: PreprocessSpec) -> DeployedFeatures:
    """Return EXIF-L2R: the features of a run of the recipe `exif_only`, from its deployed engine.

    Raises:
        FileNotFoundError: the run has not been trained, or has no engine.
        ValueError: the run has another recipe, or its faces are not cut as `cut` states.
    """
    described = run / "recipe.json"
    if not described.is_file():
        message = f"{run} has no recipe.json; it should be a run folder of `unlensed-train train --recipe exif_only`"
        raise FileNotFoundError(message)
    recipe = json.loads(described.read_text(encoding="utf-8"))
    if recipe["name"] != "exif_only":
        message = f"{run} is a run of the recipe {recipe['name']}, not of exif_only: EXIF-L2R ranks EXIF tags alone"
        raise ValueError(message)
    preprocess = PreprocessSpec.from_json(recipe["preprocess"])
    if preprocess != cut:
        message = (
            f"the faces of {run} are cut in another way than those of the evaluated run: EXIF-L2R needs the same cut"
        )
        raise ValueError(message)
    engines = sorted((run / "engine" / recipe["precision"]).rglob("*.xml.xz"))
    if not engines:
        message = f"{run} has no {recipe['precision']} engine: run `unlensed-train fit {run} --recipe exif_only` first"
        raise FileNotFoundError(message)
    return DeployedFeatures("EXIF-L2R", preprocess, engines[0], threads)
