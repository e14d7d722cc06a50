"""Training batches whose resampling runs on the GPU, by DALI: the same chain as on the CPU, from the same draws.

Worker threads flip landmarks' regions on the wide faces and make the coordinate maps; the device takes faces bilinearly
at the maps and reduces them by area. OpenCV rounds map coordinates to 1/32 pixel and DALI does not, so that a pixel
may differ by a few levels where a picture is steep; nothing else differs. Not covered: several GPUs in one process.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from training.data.manipulations import Draw, Face, Manipulation
from training.data.shards import WIDE_SIZE
from training.pretext.batches import Batch, BatchPlan

DALI_THREADS = 2
Prepared = tuple[Face, NDArray[np.float32], NDArray[np.float32]]


def reflect(coordinates: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the coordinates mirrored into the picture about the centres of its edge pixels.

    DALI's remap knows black borders only. A bilinear value outside a picture that is mirrored so (OpenCV's
    REFLECT_101) is the value inside at the mirrored place.
    """
    period = 2 * (side - 1)
    folded: NDArray[np.float32] = np.abs(coordinates) % period
    return np.minimum(folded, period - folded)


def area_weights(side: int, size: int) -> Tensor:
    """Return [size, side]: the share of each of `side` pixels in each of `size` equal stretches of them."""
    edges = torch.arange(size + 1, dtype=torch.float64) * (side / size)
    pixels = torch.arange(side, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * (size / side)).float()


def reduce_area(pictures_NHWC: Tensor, weights: Tensor) -> Tensor:
    """Return uint8 pictures reduced by area in both directions, as OpenCV's INTER_AREA reduces them."""
    reduced = torch.einsum("oh,nhwc->nowc", weights, pictures_NHWC.float())
    reduced = torch.einsum("pw,nowc->nopc", weights, reduced)
    return reduced.round().clamp(0, 255).to(torch.uint8)


def make_pipeline(batch_size: int, device: int | None) -> Pipeline:
    """Return the pipeline: faces [W, W, 3] uint8 and maps [W, W] float32, fed by name, to remapped faces."""
    pipeline = Pipeline(batch_size, DALI_THREADS, device, prefetch_queue_depth=1)
    with pipeline:
        faces = fn.external_source(name="faces", dtype=types.UINT8, ndim=3, layout="HWC")
        across, down = (
            fn.external_source(name=name, dtype=types.FLOAT, ndim=2, layout="HW") for name in ("across", "down")
        )
        # "center": whole coordinates are the centres of pixels, as OpenCV has them.
        turned = fn.experimental.remap(
            faces.gpu(), across.gpu(), down.gpu(), interp=types.INTERP_LINEAR, pixel_origin="center"
        )
        pipeline.set_outputs(turned)
    return pipeline


@dataclass(slots=True, eq=False)
class CudaBatches:
    """Faces and maps from the worker threads, resampled on the device.

    Attributes:
        plan: which faces each step takes.
        device: of the network.
    """

    plan: BatchPlan
    device: torch.device
    _pipeline: Pipeline = field(init=False)
    _weights: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._pipeline = make_pipeline(self.plan.batch_size // self.plan.ranks, self.device.index or 0)
        self._pipeline.build()
        self._weights = area_weights(WIDE_SIZE, self.plan.sampler.size).to(self.device)

    def prepare(self, row: int, draw: Draw) -> Prepared:
        """Return the wide face with its flips, and where its pixels come from, inside it."""
        face = self.plan.sampler.manipulate(self.plan.faces.wide[row], self.plan.faces.landmarks[row], draw)
        across, down = (reflect(way, WIDE_SIZE) for way in self.plan.sampler.find_map(draw, WIDE_SIZE))
        # A mirrored crop is the crop of a mirrored map: equal areas are mirrored into each other.
        return (face, across[:, ::-1], down[:, ::-1]) if draw.mirrored else (face, across, down)

    def finish(self, prepared: list[Prepared], tags: NDArray[np.float64], draws: list[Draw]) -> Batch:
        """Return the batch, on the device."""
        faces, across, down = (np.stack(parts) for parts in zip(*prepared, strict=True))
        stream = torch.cuda.current_stream(self.device)
        (turned,) = self._pipeline.run(stream, faces=faces, across=across, down=down)
        crops = reduce_area(from_dlpack(turned.as_tensor()), self._weights)
        manipulated = torch.tensor([float(draw.kind is not Manipulation.NONE) for draw in draws])
        return Batch(crops, torch.from_numpy(tags).float(), manipulated).to(self.device)
