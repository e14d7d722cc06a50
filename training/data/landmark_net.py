"""Find 68 landmarks with face-api's FaceLandmark68Net (MIT).

The folder that `--landmarks` names contains `face_landmark_68_model-weights_manifest.json` and
`face_landmark_68_model.bin`: 8-bit weights of TensorFlow.js, dequantised as `scale * q + min`. The file contains
numbers only; this module builds the architecture in torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data.landmarks import FACE_ALIGNMENT, Box, Crop, Points

INPUT_SIDE = 112
MEAN_RGB = (122.782, 117.001, 104.298)  # face-api.js, FaceFeatureExtractor
MANIFEST = "face_landmark_68_model-weights_manifest.json"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read and dequantise the weights, with the names of the manifest.

    Raises:
        FileNotFoundError: the manifest or its binary is not in `folder`.
        ValueError: the size of the binary differs from the manifest's.
    """
    if not (folder / MANIFEST).is_file():
        message = (
            f"{folder} contains no {MANIFEST}: give the folder of face-api's FaceLandmark68Net, "
            f"or `--landmarks {FACE_ALIGNMENT}`"
        )
        raise FileNotFoundError(message)
    group = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[0]
    data = b"".join((folder / name).read_bytes() for name in group["paths"])
    weights, offset = {}, 0
    for entry in group["weights"]:
        count = int(np.prod(entry["shape"]))
        quantised = np.frombuffer(data, dtype=np.uint8, count=count, offset=offset)
        values = quantised * entry["quantization"]["scale"] + entry["quantization"]["min"]
        weights[entry["name"]] = torch.from_numpy(values.astype(np.float32).reshape(entry["shape"]))
        offset += count
    if offset != len(data):
        message = f"{folder}: the manifest lists {offset} bytes of weights, the files contain {len(data)}"
        raise ValueError(message)
    return weights


def pad_same(x: Tensor, stride: int) -> Tensor:
    """Pad as TensorFlow's SAME does for a 3x3 kernel and an even side."""
    return functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))  # noqa: PLR2004 - a stride


class LandmarkNet(nn.Module):
    """Four dense blocks of separable convolutions and one linear layer (face-api.js, `denseBlock4`)."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, values in weights.items():
            if name == "fc/weights":
                converted = values.T
            elif name.endswith("depthwise_filter"):
                converted = values.permute(2, 3, 0, 1)  # HWIO with O=1 -> I1HW
            elif values.ndim == 4:  # noqa: PLR2004 - HWIO
                converted = values.permute(3, 2, 0, 1)
            else:
                converted = values
            self.register_buffer(name.replace("/", "_"), converted.contiguous())

    def convolve(self, x: Tensor, name: str, stride: int) -> Tensor:
        """Apply one convolution, full or separable, with bias."""
        bias = self.get_buffer(f"{name}_bias")
        padded = pad_same(x, stride)
        if name == "dense0_conv0":
            return functional.conv2d(padded, self.get_buffer(f"{name}_filters"), bias, stride)
        depthwise = functional.conv2d(
            padded, self.get_buffer(f"{name}_depthwise_filter"), stride=stride, groups=x.shape[1]
        )
        return functional.conv2d(depthwise, self.get_buffer(f"{name}_pointwise_filter"), bias)

    def forward(self, faces_NHWC: Tensor) -> Tensor:
        """Map [N, 112, 112, 3] RGB of 0..255 to [N, 68, 2] points (x, y) in 0..1 of the crop."""
        x = (faces_NHWC.float() - torch.tensor(MEAN_RGB)) / 255
        x = x.permute(0, 3, 1, 2)
        for block in range(4):
            total = functional.relu(self.convolve(x, f"dense{block}_conv0", 2))
            first = total
            for layer in range(1, 4):
                total = total + self.convolve(
                    first if layer == 1 else functional.relu(total), f"dense{block}_conv{layer}", 1
                )
            x = functional.relu(total)
        pooled = functional.avg_pool2d(x, 7, 2).flatten(1)
        points = functional.linear(pooled, self.get_buffer("fc_weights"), self.get_buffer("fc_bias"))
        return points.reshape(-1, 68, 2)


def load_landmark_net(folder: Path) -> LandmarkNet:
    """Build the network from the weights in `folder`; raises what `read_weights` raises."""
    return LandmarkNet(read_weights(folder)).eval()


@dataclass(frozen=True, slots=True)
class FaceApiLandmarker:
    """FaceLandmark68Net as a `Landmarker`."""

    net: LandmarkNet
    name: str = "face-api"

    def find(self, crop: Crop, box: Box) -> Points:
        """Return [68, 2] points in pixels of `crop`; if the box is outside the crop, use the whole crop."""
        side = crop.shape[0]
        x, y, width, height = box
        left, top = max(0, round(x)), max(0, round(y))
        right, bottom = min(side, round(x + width)), min(side, round(y + height))
        if right <= left or bottom <= top:
            left, top, right, bottom = 0, 0, side, side
        face = torch.from_numpy(crop[top:bottom, left:right].copy()).permute(2, 0, 1)[None].float()
        rows, columns = face.shape[2:]
        longer = max(rows, columns)
        # face-api centres the face on a black square before it resizes.
        pad_x, pad_y = (longer - columns) // 2, (longer - rows) // 2
        square = functional.pad(face, (pad_x, longer - columns - pad_x, pad_y, longer - rows - pad_y))
        small = functional.interpolate(square, (INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False)
        with torch.inference_mode():
            points = self.net(small.permute(0, 2, 3, 1))[0].numpy() * longer
        placed: Points = (points + np.array([left - pad_x, top - pad_y])).astype(np.float32)
        return placed
