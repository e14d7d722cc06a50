"""A whole comparison of small detectors: tables, left-out detectors, resumption."""

import csv
import io
import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from scorer.decide import Calibration
from training.evaluation.compare.run import ComparedFaces, Opener, compare_detectors
from training.evaluation.compare.scores import ScoreCache
from training.evaluation.detectors.base import Detector, NetworkDetector, WeightsAbsent
from training.evaluation.robustness import AS_STORED, EQUALISED

ABSENT = "the <file> is published elsewhere"
ODD_NAME = "<b>odd&name"
CONSOLE = Console(file=io.StringIO())
pytestmark = pytest.mark.slow
CALIBRATION = Calibration(np.linspace(-40.0, 0.0, 400))


def refuse() -> tuple[Detector, bytes]:
    """Say what is missing."""
    raise WeightsAbsent(ABSENT)


def import_nothing() -> tuple[Detector, bytes]:
    """Import what is not there."""
    import_module("unlensed_absent_module")
    raise AssertionError


def list_openers(grids: Detector, smoothness: Detector) -> dict[str, Opener]:
    """Return two detectors, and two that cannot be opened."""
    return {
        "grids": Opener(lambda: (grids, b""), "clear, 10 steps", ("clear",), ("it saw <all>",)),
        "bundle": Opener(lambda: (smoothness, b"")),
        "absent": Opener(refuse),
        "unpackaged": Opener(import_nothing),
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison returned, and the folder of its files."""

    report: dict[str, Any]
    out: Path


@pytest.fixture(scope="module")
def comparison(
    faces: ComparedFaces, grids: NetworkDetector, smoothness: Detector, tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    """A whole comparison."""
    out = tmp_path_factory.mktemp("out")
    report = compare_detectors(faces, list_openers(grids, smoothness), CALIBRATION, out, CONSOLE)
    return Comparison(report, out)


def test_a_comparison_measures_and_explains(comparison: Comparison) -> None:
    """Grids rank above photographs, the control is near chance, absence has reasons."""
    report = comparison.report
    assert json.loads((comparison.out / "compare.json").read_text(encoding="utf-8")) == report
    results = report["results"][AS_STORED]
    assert list(results) == ["grids", "bundle"]
    for row in results.values():
        assert row["generators"]["clear"]["auc"]["value"] == 1
        assert row["generators"]["clear"]["tpr_0.01"]["value"] == 1
        assert row["generators"]["clear"]["ap_real"]["value"] == 1
    assert results["grids"]["generators"]["clear"]["accuracy_own"]["value"] == pytest.approx(1, abs=0.05)
    assert results["bundle"]["generators"]["clear"]["accuracy_own"] is None
    for row in report["control"][AS_STORED].values():
        assert row["sources"] == 10
        assert 0.2 < row["low"] <= row["median"] <= row["high"] < 0.8
    assert report["left_out"]["absent"] == ABSENT
    assert "unlensed_absent_module" in report["left_out"]["unpackaged"]
    assert report["detectors"]["grids"]["parameters"] == 28
    assert report["detectors"]["grids"]["faces_per_second"] > 0
    assert report["conditions"]["half size"]["left_out"] == 30
    assert ODD_NAME not in report["results"]["half size"]["grids"]["generators"]


def test_figures_are_those_of_the_cached_scores(
    faces: ComparedFaces, grids: NetworkDetector, comparison: Comparison
) -> None:
    """The AUC in the table is scikit-learn's of the detector's scores on the same windows."""
    real, others = (
        grids.score_batch(list(windows.pictures)) for windows in (faces.photographs, faces.generated[ODD_NAME])
    )
    expected = roc_auc_score([0] * len(real) + [1] * len(others), np.concatenate([real, others]))
    stated = comparison.report["results"][AS_STORED]["grids"]["generators"][ODD_NAME]["auc"]
    assert stated["value"] == pytest.approx(expected)
    assert stated["low"] <= stated["value"] <= stated["high"]


def test_the_page_stands_alone_and_names_no_source(comparison: Comparison) -> None:
    """Names are escaped, nothing is loaded, no source is named."""
    page = (comparison.out / "compare.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;odd&amp;name" in page
    assert "<b>odd" not in page
    assert "grids: it saw &lt;all&gt;." in page
    assert "the &lt;file&gt; is published elsewhere" in page
    assert "Table I, as published" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert "source3" not in page
    assert "cannot" in page


def test_the_csv_has_the_figures_of_the_json(comparison: Comparison) -> None:
    """Each figure of the JSON is one row."""
    rows = list(csv.DictReader((comparison.out / "compare.csv").open(encoding="utf-8")))
    (row,) = [
        row
        for row in rows
        if (row["condition"], row["detector"], row["generator"], row["figure"])
        == (EQUALISED, "grids", "clear", "ap_generated")
    ]
    assert (
        float(row["value"])
        == comparison.report["results"][EQUALISED]["grids"]["generators"]["clear"]["ap_generated"]["value"]
    )


def test_fusion_is_measured_on_the_sources_that_did_not_calibrate(comparison: Comparison) -> None:
    """Half of the sources calibrate, the others are measured, with both alone and each method."""
    fusion = comparison.report["fusion"]
    (row,) = fusion["conditions"][AS_STORED]
    assert (row["detector"], row["calibrated_sources"], row["unseen_sources"]) == ("grids", 5, 5)
    assert [each["name"] for each in row["rows"]] == ["one-class", "grids", "Fisher", "minimum", "harmonic mean"]
    assert not any(each["helps"] for each in row["rows"][:2])


def test_a_comparison_continues_with_the_scores_that_are_there(
    faces: ComparedFaces, grids: NetworkDetector, smoothness: Detector, comparison: Comparison, tmp_path: Path
) -> None:
    """After a kill only missing scores are computed, with the same results."""
    shutil.copytree(comparison.out / "scores", tmp_path / "scores")
    lost = next((tmp_path / "scores" / "bundle" / "screenshot").glob("clear-*.npz"))
    lost.unlink()
    before = smoothness.pictures
    report = compare_detectors(faces, list_openers(grids, smoothness), CALIBRATION, tmp_path, CONSOLE)
    assert smoothness.pictures - before == 30
    assert ScoreCache.read(lost) is not None
    assert report["results"] == comparison.report["results"]


def test_without_any_detector_the_reasons_are_the_error(faces: ComparedFaces, tmp_path: Path) -> None:
    """If all are left out there is nothing to compare, and the error says why."""
    with pytest.raises(FileNotFoundError, match=ABSENT):
        compare_detectors(faces, {"absent": Opener(refuse)}, None, tmp_path, CONSOLE, curves=False)
