"""YuNet on OpenVINO: RGB tiles of a few sizes in, raw face boxes out.

The network is yunet_n of libfacedetection (Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023;
Apache-2.0) with its weights in half precision, without the landmarks and the last sigmoids, and with one head for each
grid. A pixel costs a third of
BlazeFace's, and faces are found from 10 pixels. A change of shape costs more than a tile, so that each size of tile has
a network of its own.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from ingest.openvino_core import compile_network, ov, read_network

_STRIDES = (8, 16, 32)  # tile pixels between the cells of each grid
_NUMBERS = 6  # of a cell: two logits; centre and logarithms of the sides, in cells
_LOGIT_LIMIT = 60.0  # keeps exp() finite
_SIZE_LIMIT = 8.0  # of the logarithms: a side of 3000 cells
_STEP = 2.0**-20  # confidences and sides are multiples of this, because the last bits of exp() depend on the CPU


class YuNet:
    """The network, compiled for each size (width, height) of `tiles`.

    Threads may share it. The same tile gives the same boxes for any number of threads.

    Raises:
        ValueError: the file is not a YuNet model that OpenVINO can read.
        DeviceUnavailable: see `require_instructions`.
    """

    def __init__(self, model: Path, tiles: Sequence[tuple[int, int]], threads: int) -> None:
        self._idle: dict[tuple[int, int], SimpleQueue[ov.InferRequest]] = {}
        for size in tiles:
            network = _compile(model, size, threads)
            self._idle[size] = SimpleQueue()
            for _ in range(threads):
                self._idle[size].put(network.create_infer_request())
            # See `BlazeFace`: the first use of OpenVINO's binding is in one thread.
            self._find_one(np.zeros((size[1], size[0], 3), np.uint8), min_confidence=1.0)
        self._workers = ThreadPoolExecutor(threads, "yunet")

    def find(self, tiles: Sequence[NDArray[np.uint8]], min_confidence: float) -> list[NDArray[np.float64]]:
        """Return, for each tile, a row for every cell with at least `min_confidence`.

        A tile is uint8 RGB, (height, width, 3). A row is (x, y, width, height, confidence): corner and size in tile
        pixels. Rows of one face overlap; a part of a box may lie outside its tile.
        """
        return list(self._workers.map(partial(self._find_one, min_confidence=min_confidence), tiles))

    def _find_one(self, tile: NDArray[np.uint8], min_confidence: float) -> NDArray[np.float64]:
        idle = self._idle[tile.shape[1], tile.shape[0]]
        request = idle.get()
        try:
            request.infer([tile[np.newaxis]], share_inputs=True)
            grids = [
                decode_grid(request.get_tensor(_name(stride)).data[0], stride, min_confidence) for stride in _STRIDES
            ]
            return np.concatenate(grids)
        finally:
            idle.put(request)


def decode_grid(cells: NDArray[np.float32], stride: int, min_confidence: float) -> NDArray[np.float64]:
    """Return rows (x, y, width, height, confidence) of the cells of one grid, row by row.

    `cells` is (rows, columns, 6): the logits of class and object, the centre relative to the cell and the logarithms of
    the sides, in cells.
    """
    columns, numbers = cells.shape[1], cells.reshape(-1, _NUMBERS)
    likely = np.sqrt(_sigmoid(numbers[:, 0]) * _sigmoid(numbers[:, 1]))
    confidence = np.rint(likely / _STEP) * _STEP
    cell = np.flatnonzero(confidence >= min_confidence)
    boxes = numbers[cell, 2:].astype(np.float64)
    centre = (np.stack([cell % columns, cell // columns], axis=1) + boxes[:, :2]) * stride
    size = np.rint(np.exp(np.clip(boxes[:, 2:], -_SIZE_LIMIT, _SIZE_LIMIT)) * stride / _STEP) * _STEP
    return np.concatenate([centre - size / 2, size, confidence[cell, np.newaxis]], axis=1)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    sigmoid: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -_LOGIT_LIMIT, _LOGIT_LIMIT)))
    return sigmoid


def _compile(model: Path, size: tuple[int, int], threads: int) -> ov.CompiledModel:
    """Read the file, fix the size (width, height), convert RGB pixels to its BGR numbers and compile for the CPU."""
    width, height = size
    try:
        network = read_network(model)
        network.reshape([1, 3, height, width])
        found = {name: tuple(network.output(name).shape) for name in map(_name, _STRIDES)}
    except (RuntimeError, ValueError) as error:
        message = f"{model}: OpenVINO cannot read the face detector ({error}); verify the bundle"
        raise ValueError(message) from error
    expected = {_name(stride): (1, height // stride, width // stride, _NUMBERS) for stride in _STRIDES}
    if found != expected:
        message = f"{model}: tensors {found} are not those of YuNet; verify the bundle"
        raise ValueError(message)
    steps = ov.preprocess.PrePostProcessor(network)
    pixels = steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    pixels.set_color_format(ov.preprocess.ColorFormat.RGB)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ov.preprocess.ColorFormat.BGR)
    return compile_network(steps.build(), {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads})


def _name(stride: int) -> str:
    return f"cells_{stride}"
