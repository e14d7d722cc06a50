"""The command on real faces, and detectors that lack a file, a training or photographs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from training.cli import main
from training.data.shards import INDEX, LAYOUT, TABLE_FIELDS, write_shard
from training.evaluation.compare.opening import CompareOptions, FittingPhotographs, digest_pictures, list_openers
from training.evaluation.compare.run import ComparedFaces, explain
from training.evaluation.detectors.baseline import FACTS, find_folder


def save_portrait(path: Path, seed: int) -> None:
    """Write the astronaut's head with noise of a seed."""
    rng = np.random.default_rng(seed)
    head = skimage.data.astronaut()[:256, 96:352] + rng.normal(0, rng.uniform(1, 6), (256, 256, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(head, 0, 255).astype(np.uint8)).save(path, quality=92)


def write_fit_role(run: Path, sources: list[str]) -> None:
    """Write the role `fit` of a run with one small face for each source."""
    count = len(sources)
    pictures = [np.full((8, 8, 3), row, np.uint8) for row in range(count)]
    columns = {
        "landmarks": np.zeros((count, 68, 2), np.float32),
        "tags": np.ones((count, 4)),
        "photos": np.arange(count).astype(str),
        "sources": np.array(sources),
        "cameras": np.full(count, ""),
        "short_sides": np.full(count, 150.0),
        "jpeg_qualities": np.full(count, 95, np.int16),
    }
    folder = run / "faces" / "fit"
    write_shard(folder / "0", {"crops": pictures, "wide": pictures}, {name: columns[name] for name in TABLE_FIELDS})
    np.savez(folder / INDEX, layout=LAYOUT, shards=np.array(["0"]), counts=np.array([count]), rows=np.arange(count))


@pytest.mark.slow
def test_the_command_compares_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle scores real faces; what is missing has its reason."""
    for number in range(4):
        save_portrait(tmp_path / "real" / f"source{number % 2}" / f"{number}.jpg", number)
        save_portrait(tmp_path / "generated" / f"{number}.jpg", 100 + number)
    arguments = ["compare", str(tmp_path / "run"), "--real", str(tmp_path / "real"), "--no-curves", "--threads", "1"]
    arguments += ["--generated", f"portraits={tmp_path / 'generated'}", "--out", str(tmp_path / "out")]
    arguments += ["--detectors", "bundle,residuals,noiseprint,lgrad"]
    monkeypatch.setattr(sys, "argv", ["unlensed-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    report = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert list(report["detectors"]) == ["bundle"]
    assert 0 <= report["results"]["as stored"]["bundle"]["generators"]["portraits"]["auc"]["value"] <= 1
    assert "unlensed-train prepare" in report["left_out"]["residuals"]
    assert "noiseprint" in report["left_out"]
    assert "unlensed-train baseline lgrad" in report["left_out"]["lgrad"]
    assert "left out: lgrad" in capsys.readouterr().err
    assert (tmp_path / "out" / "compare.html").is_file()


def make_options(run: Path, folder: Path) -> CompareOptions:
    """Return options for two generators."""
    return CompareOptions(
        run, folder, {"flux": folder / "flux1", "clear": folder / "clear"}, folder, None, files={}, threads=1
    )


def test_compared_photographs_are_never_fitted_on(faces: ComparedFaces, tmp_path: Path) -> None:
    """Compared sources are left out of the role fit; without others so is the detector."""
    write_fit_role(tmp_path, ["source0", "other", "source1", "another"])
    fitting = FittingPhotographs(make_options(tmp_path, tmp_path), frozenset({"source0", "source1"}), lambda _: faces)
    pictures = fitting.read("residuals")
    assert [picture[0, 0, 0] for picture in pictures] == [1, 3]
    assert "2 of the 2 compared sources are in the role fit" in fitting.describe("bundle")[0]
    write_fit_role(tmp_path / "only", ["source0"])
    alone = FittingPhotographs(make_options(tmp_path / "only", tmp_path), frozenset({"source0"}), lambda _: faces)
    with pytest.raises(FileNotFoundError, match="compared"):
        alone.read("residuals")
    assert digest_pictures(pictures) != digest_pictures(list(pictures)[:1])


def test_a_baseline_states_its_generator_and_shared_sources(faces: ComparedFaces, tmp_path: Path) -> None:
    """The generator of its training is marked, and shared photographs are noted."""
    folder = find_folder(tmp_path, "npr")
    folder.mkdir(parents=True)
    data = {"generator": "flux1", "real": {"sources": {"source0": {"train": 3, "held_out": 0}, "elsewhere": {}}}}
    facts = {"weights": "trained on flux1", "steps": 10, "published_steps": 100, "data": data}
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    openers = list_openers(make_options(tmp_path, tmp_path), ["npr", "lgrad"], faces.photographs, lambda _: faces)
    assert openers["npr"].training == ("flux",)
    assert openers["npr"].trained_on == "trained on flux1, 10 steps of 100"
    assert openers["npr"].notes[0].startswith("1 of the 10 compared sources")
    assert not openers["lgrad"].training
    with pytest.raises(FileNotFoundError) as refused:
        openers["lgrad"].open()
    assert "baseline" in explain(refused.value)
