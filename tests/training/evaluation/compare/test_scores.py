"""Cached scores are reused for the same detector, condition and windows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.evaluation.compare.conditions import CURVES, list_window_conditions
from training.evaluation.compare.run import ComparedFaces
from training.evaluation.compare.scores import (
    Cost,
    MemoryMeter,
    NotFinite,
    ScoreCache,
    ScoredSet,
    digest_detector,
    digest_windows,
    score_detector,
    score_windows,
)
from training.evaluation.detectors.base import Detector, NetworkDetector
from training.evaluation.robustness import AS_STORED, EQUALISED

CONDITIONS = list_window_conditions(curves=False)


def score(detector: Detector, faces: ComparedFaces, folder: Path) -> tuple[dict[str, dict[str, ScoredSet]], int]:
    """Return the scores of the two formats, and how many faces were counted."""
    sets = {name: (windows, digest_windows(windows)) for name, windows in faces.list_sets().items()}
    counted: list[int] = []
    results = score_detector(
        detector, digest_detector(detector, b""), CONDITIONS, sets, ScoreCache(folder), MemoryMeter(), counted.append
    )
    return results, sum(counted)


def test_scores_are_reused(faces: ComparedFaces, smoothness: Detector, tmp_path: Path) -> None:
    """The second time nothing is scored, and progress counts every face."""
    first, counted = score(smoothness, faces, tmp_path)
    total = sum(map(len, faces.list_sets().values())) * len(CONDITIONS)
    assert smoothness.pictures == counted == total
    again, counted = score(smoothness, faces, tmp_path)
    assert smoothness.pictures == counted == total
    for condition, row in first.items():
        for name, scored in row.items():
            np.testing.assert_array_equal(scored.scores, again[condition][name].scores)
            assert scored.cost == again[condition][name].cost
            assert scored.cost.faces == len(scored.scores)


def test_a_changed_set_is_scored_again_alone(faces: ComparedFaces, smoothness: Detector, tmp_path: Path) -> None:
    """With one face less, only that set is scored."""
    score(smoothness, faces, tmp_path)
    smoothness.pictures = 0
    fewer = faces.generated["clear"].select(np.arange(29))
    score(smoothness, ComparedFaces(faces.photographs, {**faces.generated, "clear": fewer}), tmp_path)
    assert smoothness.pictures == 29 * len(CONDITIONS)


def test_digests_differ_with_what_scores_depend_on(faces: ComparedFaces, grids: NetworkDetector) -> None:
    """Another weight, other inputs, another pixel and another size of a face change the digest."""
    before = digest_detector(grids, b"")
    assert digest_detector(grids, b"") == before
    assert digest_detector(grids, b"file") != before
    with torch.no_grad():
        grids.network.get_parameter("level").add_(1e-6)
    assert digest_detector(grids, b"") != before
    windows = faces.generated["clear"]
    assert digest_windows(windows) == digest_windows(windows.select(np.arange(30)))
    assert digest_windows(windows) != digest_windows(windows.select(np.arange(30)[::-1]))
    assert digest_windows(windows) != digest_windows(replace(windows, short_sides=windows.short_sides + 1))


def test_conditions_differ_and_start_from_one_format() -> None:
    """Each condition has its own digest, and every curve starts from the equal format."""
    conditions = list_window_conditions()
    assert len({each.digest() for each in conditions.values()}) == len(conditions)
    assert {next(iter(points.values())) for points in CURVES.values()} == {EQUALISED}
    assert {name for points in CURVES.values() for name in points.values()} | {AS_STORED} == set(conditions)


def test_windows_of_any_shape_are_reduced_alike() -> None:
    """In one format a face of 300 px has 150, and one of 100 px keeps its size."""
    picture = np.random.default_rng(0).integers(0, 256, (390, 300, 3)).astype(np.uint8)
    np.testing.assert_array_equal(CONDITIONS[AS_STORED].process(picture, 300.0, 0), picture)
    assert CONDITIONS[EQUALISED].process(picture, 300.0, 0).shape == (195, 150, 3)
    assert CONDITIONS[EQUALISED].process(picture, 100.0, 0).shape == (390, 300, 3)


def test_a_score_that_is_not_finite_is_refused(faces: ComparedFaces, grids: NetworkDetector) -> None:
    """NaN would leave faces out silently; the error names the picture."""
    with torch.no_grad():
        grids.network.get_parameter("level").fill_(float("nan"))
    with pytest.raises(NotFinite, match="no finite score"):
        score_windows(grids, CONDITIONS[AS_STORED], faces.generated["clear"], MemoryMeter(), int)


def test_memory_is_that_of_the_detector() -> None:
    """64 MB that are used between creation and reading are counted."""
    meter = MemoryMeter()
    used = np.ones(64 << 20, np.uint8)
    peak, _ = meter.read()
    assert peak == 0 or peak >= 0.9 * used.nbytes  # 0: the kernel does not tell


def test_costs_are_joined() -> None:
    """Seconds and faces are added, and peaks are not."""
    assert Cost(1.0, 10, 100, 7).join(Cost(2.0, 20, 50, 9)) == Cost(3.0, 30, 100, 9)
