"""The landmark net with random weights in the published layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.data.landmarks import MANIFEST, find_landmarks, load_landmark_net

WIDTHS = (32, 64, 128, 256)


def list_weights() -> list[tuple[str, list[int]]]:
    """Return names and shapes as face-api's manifest has them."""
    listed: list[tuple[str, list[int]]] = []
    channels = 3
    for block, width in enumerate(WIDTHS):
        for layer in range(4):
            name = f"dense{block}/conv{layer}"
            if channels == 3:
                listed.append((f"{name}/filters", [3, 3, 3, width]))
            else:
                listed += [(f"{name}/depthwise_filter", [3, 3, channels, 1])]
                listed += [(f"{name}/pointwise_filter", [1, 1, channels, width])]
            listed.append((f"{name}/bias", [width]))
            channels = width
    return [*listed, ("fc/weights", [256, 136]), ("fc/bias", [136])]


def write_weights(folder: Path, extra: int = 0) -> None:
    """Write quantised random weights with their manifest."""
    rng = np.random.default_rng(0)
    entries, data = [], b""
    for name, shape in list_weights():
        scale = 0.001 if name.startswith("fc") else 0.002
        entries.append(
            {"name": name, "shape": shape, "quantization": {"dtype": "uint8", "scale": scale, "min": -127.5 * scale}}
        )
        data += rng.integers(0, 256, int(np.prod(shape)), dtype=np.uint8).tobytes()
    (folder / "weights.bin").write_bytes(data + bytes(extra))
    (folder / MANIFEST).write_text(json.dumps([{"weights": entries, "paths": ["weights.bin"]}]))


def test_points_follow_the_box(tmp_path: Path) -> None:
    """The same pixels at another place give the same points, moved by as much."""
    write_weights(tmp_path)
    net = load_landmark_net(tmp_path)
    face = np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    canvas = [np.zeros((200, 200, 3), dtype=np.uint8) for _ in range(2)]
    canvas[0][20:100, 30:90] = face
    canvas[1][70:150, 100:160] = face
    first = find_landmarks(net, canvas[0], (30, 20, 60, 80))
    second = find_landmarks(net, canvas[1], (100, 70, 60, 80))
    assert first.shape == (68, 2)
    np.testing.assert_allclose(second - first, np.tile([70, 50], (68, 1)), atol=1e-3)


def test_wrong_size_is_refused(tmp_path: Path) -> None:
    """A binary with bytes the manifest does not list is not these weights."""
    write_weights(tmp_path, extra=1)
    with pytest.raises(ValueError, match="the manifest lists"):
        load_landmark_net(tmp_path)
