"""Training batches whose resampling runs where the network does: the same chain as on the CPU, from the same draws.

Worker threads only flip landmarks' regions on the wide faces. The device makes the coordinate maps, takes faces
bilinearly at them, mirrored at the edges, and reduces them by area. It is torch alone (`grid_sample` is the CPU chain's
remap, reflection included; DALI's knows neither a CPU nor a border but black), so that the same code is tested on a
CPU. OpenCV rounds map coordinates to 1/32 pixel and torch does not, so that a pixel may differ by a few levels where a
picture is steep; nothing else differs. Not covered: several GPUs in one process.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from training.data.manipulations import Draw, Face, Manipulation
from training.data.shards import WIDE_SIZE
from training.pretext.batches import Batch, BatchPlan


def area_weights(side: int, size: int) -> Tensor:
    """Return [size, side]: the share of each of `side` pixels in each of `size` equal stretches of them."""
    edges = torch.arange(size + 1, dtype=torch.float64) * (side / size)
    pixels = torch.arange(side, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * (size / side)).float()


def reduce_area(pictures_NCHW: Tensor, weights: Tensor) -> Tensor:
    """Return FP32 pictures reduced by area in both directions, as OpenCV's INTER_AREA reduces them."""
    reduced: Tensor = weights @ (pictures_NCHW @ weights.T)
    return reduced


def take(pictures_NCHW: Tensor, places_NHW2: Tensor, padding: str) -> Tensor:
    """Return pictures taken bilinearly at `places_NHW2`: x and y in pixels, whole numbers at the pixels' centres."""
    height, width = pictures_NCHW.shape[2:]
    extent = places_NHW2.new_tensor((width - 1, height - 1))
    return grid_sample(pictures_NCHW, places_NHW2 * (2 / extent) - 1, "bilinear", padding, align_corners=True)


@dataclass(slots=True, eq=False)
class CudaBatches:
    """Wide faces from the worker threads, resampled on the device.

    Attributes:
        plan: which faces each step takes.
        device: of the network.
    """

    plan: BatchPlan
    device: torch.device
    _weights: Tensor = field(init=False)
    _pixels: Tensor = field(init=False)
    _shifts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._weights = area_weights(WIDE_SIZE, self.plan.sampler.size).to(self.device)
        axis = torch.arange(WIDE_SIZE, dtype=torch.float32, device=self.device)
        down, across = torch.meshgrid(axis, axis, indexing="ij")
        self._pixels = torch.stack([across, down, torch.ones_like(across)], dim=-1)  # [W, W, 3] as (x, y, 1)
        shifts = np.stack(self.plan.sampler.shifts or [np.zeros((WIDE_SIZE, WIDE_SIZE, 2), np.float32)])
        self._shifts = torch.from_numpy(shifts).to(self.device).permute(0, 3, 1, 2).contiguous()

    def prepare(self, row: int, draw: Draw) -> Face:
        """Return the wide face with its flips."""
        return self.plan.sampler.manipulate(self.plan.faces.wide[row], self.plan.faces.landmarks[row], draw)

    def finish(self, prepared: list[Face], tags: NDArray[np.float64], draws: list[Draw]) -> Batch:
        """Return the batch, on the device."""
        # Page-locked, so that the copy does not hold up the thread that queues the network's work.
        faces = torch.empty((len(prepared), WIDE_SIZE, WIDE_SIZE, 3), dtype=torch.uint8, pin_memory=self._is_cuda)
        np.stack(prepared, out=faces.numpy())
        pictures = faces.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        turned = take(pictures, self.find_places(draws), "reflection").round()
        crops = reduce_area(turned, self._weights).round().clamp(0, 255).to(torch.uint8)
        mirrored = torch.tensor([draw.mirrored for draw in draws], device=self.device)
        crops = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
        manipulated = torch.tensor([float(draw.kind is not Manipulation.NONE) for draw in draws])
        crops_NHWC = crops.permute(0, 2, 3, 1).contiguous()
        return Batch(crops_NHWC, torch.from_numpy(tags).float(), manipulated).to(self.device)

    def find_places(self, draws: list[Draw]) -> Tensor:
        """Return where each pixel of the wide crops comes from, [N, W, W, 2]; see `FaceSampler.find_map`."""
        matrices = torch.from_numpy(np.stack([draw.matrix for draw in draws])).float().to(self.device)
        places = torch.einsum("hwi,nji->nhwj", self._pixels, matrices)
        warped = [i for i, draw in enumerate(draws) if draw.kind is Manipulation.PIECEWISE_AFFINE]
        if warped:
            shifts = self._shifts[[draws[i].warp for i in warped]]
            places[warped] += take(shifts, places[warped], "border").permute(0, 2, 3, 1)
        return places

    @property
    def _is_cuda(self) -> bool:
        return self.device.type == "cuda"
