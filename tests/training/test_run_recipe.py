"""A recipe that is not the run's is refused with one sentence."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scorer.errors import UsageError
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import build_network
from training.recipes import Recipe, paper, released, starter
from training.run_recipe import check_cut, check_recipe


def write_run(run: Path, recipe: Recipe) -> None:
    """Write the files from which a run's recipe is known."""
    (run / "faces" / "chunks").mkdir(parents=True)
    (run / "faces" / "chunks" / "settings.json").write_text(json.dumps({"preprocess": asdict(recipe.preprocess)}))
    (run / "recipe.json").write_text(json.dumps(asdict(recipe)))
    (run / "best.safetensors").touch()


def test_a_run_without_a_training_is_named(tmp_path: Path) -> None:
    """The sentence has the command that comes first."""
    with pytest.raises(FileNotFoundError, match=r"no best.safetensors: run `unlensed-train train .* --recipe paper`"):
        check_recipe(tmp_path, paper())


def test_weights_of_another_network_are_one_sentence(tmp_path: Path) -> None:
    """A checkpoint whose recipe was not recorded is refused when its arrays do not fit."""
    save_file({"extractor.other": torch.zeros(1)}, tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match="belongs to another network than that of the recipe"):
        load_checkpoint(tmp_path / "best.safetensors", build_network(starter()))


def test_the_run_s_recipe_is_accepted(tmp_path: Path) -> None:
    """Other settings after the training, and another batch size, do not matter."""
    write_run(tmp_path, replace(paper(), batch_size=16))
    check_recipe(tmp_path, replace(paper(), mixture=starter().mixture, precision="int8"))


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    """Another name, other settings, and faces cut in another way are refused."""
    write_run(tmp_path, paper())
    with pytest.raises(UsageError, match="was trained with the recipe paper, not starter: use --recipe paper"):
        check_recipe(tmp_path, starter())
    with pytest.raises(UsageError, match="was trained with another backbone than the recipe paper has now"):
        check_recipe(tmp_path, replace(paper(), backbone="efficientnet_lite0"))
    with pytest.raises(UsageError, match="was trained with another feature_size than the recipe paper has now"):
        check_recipe(tmp_path, replace(paper(), feature_size=256))
    with pytest.raises(UsageError, match="were cut with another antialias than the recipe released states"):
        check_cut(tmp_path, released())
    check_cut(tmp_path, paper())


def test_a_run_that_states_no_feature_size_has_the_paper_s(tmp_path: Path) -> None:
    """Runs of earlier releases had 768 features, and their recipe.json does not say so."""
    write_run(tmp_path, paper())
    trained = json.loads((tmp_path / "recipe.json").read_text())
    del trained["feature_size"]
    (tmp_path / "recipe.json").write_text(json.dumps(trained))
    check_recipe(tmp_path, paper())
    (tmp_path / "recipe.json").write_text(json.dumps(trained | {"name": "starter", "backbone": "efficientnet_lite0"}))
    with pytest.raises(UsageError, match="was trained with another feature_size than the recipe starter has now"):
        check_recipe(tmp_path, starter())
