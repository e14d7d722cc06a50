"""Training batches that are resampled on the network's device, with the operations and augmentations of the CPU.

Worker threads only flip the regions of landmarks on the wide faces. The device computes the coordinate maps, samples
the faces bilinearly with reflection at the edges, and reduces them by area. It uses torch only, so the same code is
tested on a CPU: `grid_sample` equals OpenCV's remap, including reflection; DALI's remap has no CPU version and supports
a black border only. OpenCV rounds map coordinates to 1/32 pixel and torch does not, so pixels at strong gradients can
differ by a few grey levels. Not covered: several GPUs in one process.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from training.data.manipulations import Augmentation, Face, Manipulation
from training.data.shards import WIDE_SIZE
from training.pretext.batches import Batch, BatchPlan


def area_weights(side: int, size: int) -> Tensor:
    """Return [size, side]: the weight of each of `side` pixels in each of `size` equal intervals."""
    edges = torch.arange(size + 1, dtype=torch.float64) * (side / size)
    pixels = torch.arange(side, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * (size / side)).float()


def reduce_area(pictures_NCHW: Tensor, weights: Tensor) -> Tensor:
    """Return FP32 pictures reduced by area in both directions, as OpenCV's INTER_AREA reduces them."""
    reduced: Tensor = weights @ (pictures_NCHW @ weights.T)
    return reduced


def sample_bilinear(pictures_NCHW: Tensor, maps_NHW2: Tensor, padding: str) -> Tensor:
    """Return pictures sampled bilinearly at `maps_NHW2`: x and y in pixels, whole numbers at the centres of pixels."""
    height, width = pictures_NCHW.shape[2:]
    extent = maps_NHW2.new_tensor((width - 1, height - 1))
    return grid_sample(pictures_NCHW, maps_NHW2 * (2 / extent) - 1, "bilinear", padding, align_corners=True)


@dataclass(slots=True, eq=False)
class CudaBatchMaker:
    """Takes wide faces from the worker threads and resamples them on the device.

    Attributes:
        plan: the faces and the random numbers of each step.
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

    def prepare(self, row: int, augmentation: Augmentation) -> Face:
        """Return the wide face with its flips."""
        return self.plan.sampler.manipulate(self.plan.faces.wide[row], self.plan.faces.landmarks[row], augmentation)

    def finish(self, prepared: list[Face], tags: NDArray[np.float64], augmentations: list[Augmentation]) -> Batch:
        """Return the batch, on the device."""
        # Page-locked memory, so that the copy does not block the thread that queues the network's work.
        faces = torch.empty((len(prepared), WIDE_SIZE, WIDE_SIZE, 3), dtype=torch.uint8, pin_memory=self._is_cuda)
        np.stack(prepared, out=faces.numpy())
        pictures = faces.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        turned = sample_bilinear(pictures, self.build_maps(augmentations), "reflection").round()
        crops = reduce_area(turned, self._weights).round().clamp(0, 255).to(torch.uint8)
        mirrored = torch.tensor([augmentation.mirrored for augmentation in augmentations], device=self.device)
        crops = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
        manipulated = torch.tensor(
            [float(augmentation.kind is not Manipulation.NONE) for augmentation in augmentations]
        )
        crops_NHWC = crops.permute(0, 2, 3, 1).contiguous()
        return Batch(crops_NHWC, torch.from_numpy(tags).float(), manipulated).to(self.device)

    def build_maps(self, augmentations: list[Augmentation]) -> Tensor:
        """Return where each pixel of the wide crops comes from, [N, W, W, 2]; see `FaceSampler.build_map`."""
        matrices = (
            torch.from_numpy(np.stack([augmentation.matrix for augmentation in augmentations])).float().to(self.device)
        )
        maps = torch.einsum("hwi,nji->nhwj", self._pixels, matrices)
        warped = [
            i for i, augmentation in enumerate(augmentations) if augmentation.kind is Manipulation.PIECEWISE_AFFINE
        ]
        if warped:
            shifts = self._shifts[[augmentations[i].warp for i in warped]]
            maps[warped] += sample_bilinear(shifts, maps[warped], "border").permute(0, 2, 3, 1)
        return maps

    @property
    def _is_cuda(self) -> bool:
        return self.device.type == "cuda"
