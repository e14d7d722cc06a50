"""Training batches that are resampled on the network's device, with the operations and augmentations of the CPU.

Worker threads only flip the regions of landmarks on the wide faces. The device computes the coordinate maps, samples
the faces bicubically with reflection at the edges, and reduces them by area. It uses torch only, so the same code is
tested on a CPU: `grid_sample` equals OpenCV's remap, including reflection and the bicubic kernel (a = -0.75); DALI's
remap has no CPU version and supports a black border only. OpenCV rounds map coordinates to 1/32 pixel and torch does
not, so pixels at strong gradients can differ by a few grey levels. The crops of the ranking task are copied to the
device unchanged. Not covered: several GPUs in one process.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from training.data.manipulations import Augmentation
from training.data.shards import WIDE_SIZE
from training.pretext.batches import Batch, BatchPlan, Prepared, join_tasks, stack_faces
from training.recipes import Manipulation


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


def sample(pictures_NCHW: Tensor, maps_NHW2: Tensor, kernel: str, padding: str) -> Tensor:
    """Return pictures sampled at `maps_NHW2`: x and y in pixels, whole numbers at the centres of pixels."""
    height, width = pictures_NCHW.shape[2:]
    extent = maps_NHW2.new_tensor((width - 1, height - 1))
    return grid_sample(pictures_NCHW, maps_NHW2 * (2 / extent) - 1, kernel, padding, align_corners=True)


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

    def prepare(self, row: int, augmentation: Augmentation) -> Prepared:
        """Return the stored crop, and the wide face with its flips."""
        return self.plan.read_served(row, augmentation), self.plan.manipulate(row, augmentation)

    def finish(self, prepared: list[Prepared], tags: NDArray[np.float64], augmentations: list[Augmentation]) -> Batch:
        """Return the batch, on the device."""
        # Page-locked memory, so that the copy does not block the thread that queues the network's work.
        served, wide = (
            faces if faces is None else faces.to(self.device, non_blocking=True)
            for faces in (stack_faces(column, pinned=self._is_cuda) for column in zip(*prepared, strict=True))
        )
        resampled = None if wide is None else self.resample(wide, augmentations)
        kinds = [augmentation.kind for augmentation in augmentations]
        return join_tasks(served, resampled, tags, kinds, self.plan.recipe.losses).to(self.device)

    def resample(self, wide: Tensor, augmentations: list[Augmentation]) -> Tensor:
        """Return the [N, S, S, 3] crops of wide faces; see `FaceSampler.resample`."""
        pictures = wide.permute(0, 3, 1, 2).float()
        turned = sample(pictures, self.build_maps(augmentations), "bicubic", "reflection").round().clamp(0, 255)
        crops = reduce_area(turned, self._weights).round().clamp(0, 255).to(torch.uint8)
        mirrored = torch.tensor([augmentation.mirrored for augmentation in augmentations], device=self.device)
        crops = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
        return crops.permute(0, 2, 3, 1).contiguous()

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
            maps[warped] += sample(shifts, maps[warped], "bilinear", "border").permute(0, 2, 3, 1)
        return maps

    @property
    def _is_cuda(self) -> bool:
        return self.device.type == "cuda"
