"""Landmarkers, with random weights in the published formats."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.data.landmark_weights import write_weights
from training.data.fan_landmarks import FAN, WEIGHTS
from training.data.landmarkers import open_landmarker
from training.data.landmarks import Landmarker

FACE = np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8)


def place(left: int, top: int) -> np.ndarray:
    """Return a black crop with the face at a position."""
    canvas = np.zeros((200, 200, 3), dtype=np.uint8)
    canvas[top : top + 80, left : left + 60] = FACE
    return canvas


def test_points_follow_the_box(tmp_path: Path) -> None:
    """The same pixels at another position give the same points, shifted by the same distance."""
    write_weights(tmp_path)
    landmarker = open_landmarker(str(tmp_path))
    first = landmarker.find(place(30, 20), (30, 20, 60, 80))
    second = landmarker.find(place(100, 70), (100, 70, 60, 80))
    assert first.shape == (68, 2)
    np.testing.assert_allclose(second - first, np.tile([70, 50], (68, 1)), atol=1e-3)


def test_a_box_outside_the_crop_means_the_whole_crop(tmp_path: Path) -> None:
    """A box outside the picture gives points and no error."""
    write_weights(tmp_path)
    landmarker = open_landmarker(str(tmp_path))
    beside = landmarker.find(place(30, 20), (-90, -90, 60, 80))
    assert np.array_equal(beside, landmarker.find(place(30, 20), (0, 0, 200, 200)))


def test_wrong_size_is_refused(tmp_path: Path) -> None:
    """A binary with more bytes than the manifest lists is refused."""
    write_weights(tmp_path, extra=1)
    with pytest.raises(ValueError, match="the manifest lists"):
        open_landmarker(str(tmp_path))


@pytest.fixture(scope="module")
def fan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Landmarker]:
    """Torch's download folder with random weights of 2D-FAN-4, and the landmarker."""
    home = tmp_path_factory.mktemp("torch")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(FAN(4).state_dict(), folder / WEIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        return folder, open_landmarker("face-alignment")


def test_face_alignment_points_follow_the_box(fan: tuple[Path, Landmarker]) -> None:
    """The points of the package's network, loaded from torch's download folder, follow the face."""
    first = fan[1].find(place(30, 20), (30, 20, 60, 80))
    second = fan[1].find(place(80, 60), (80, 60, 60, 80))
    assert first.shape == (68, 2)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.abs(first).max() < 400
    # The package rounds the corner of its input region, which shifts the maxima of a random network's flat heatmaps.
    assert (np.abs(second - first - (50, 40)).max(axis=1) < 2).mean() > 0.7


@pytest.mark.long
def test_face_alignment_in_a_named_folder(fan: tuple[Path, Landmarker], monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights can be in another folder than torch's downloads."""
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    named = open_landmarker(f"face-alignment:{fan[0]}")
    crop, box = place(30, 20), (30.0, 20.0, 60.0, 80.0)
    assert np.array_equal(named.find(crop, box), fan[1].find(crop, box))


def test_absent_weights_are_named_and_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the missing file and its folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: pytest.fail("it downloads"))
    where = re.escape(f"{WEIGHTS} are not in {tmp_path / 'hub' / 'checkpoints'}: put the file there")
    with pytest.raises(FileNotFoundError, match=where):
        open_landmarker("face-alignment")
    with pytest.raises(FileNotFoundError, match=r"contains no face_landmark_68_model-weights_manifest\.json"):
        open_landmarker(str(tmp_path))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """A file of that name with other keys, or without weights, is not loaded."""
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"does not contain the weights of 2D-FAN-4"):
        open_landmarker(f"face-alignment:{tmp_path}")
    (tmp_path / WEIGHTS).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"does not contain the weights of 2D-FAN-4"):
        open_landmarker(f"face-alignment:{tmp_path}")
