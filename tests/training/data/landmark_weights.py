"""Random weights for face-api's landmark network, in the published format."""

import json
from pathlib import Path

import numpy as np

from training.data.landmark_net import MANIFEST

WIDTHS = (32, 64, 128, 256)


def list_weights() -> list[tuple[str, list[int]]]:
    """Return the names and shapes of face-api's manifest."""
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
