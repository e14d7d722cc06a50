"""BlazeFace on OpenVINO: square RGB tiles in, raw face boxes out.

The networks are MediaPipe's back-camera and full-range models (Bazarevsky et al., "BlazeFace: Sub-millisecond
Neural Face Detection on Mobile GPUs", 2019), with the weights of MediaPipe. Tiles have a network's native
size and run one by one, with one stream for each thread: measured, neither a batch nor a larger input is cheaper per
pixel, and a change of shape costs more than two tiles.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from ingest.openvino_core import compile_network, ov, read_network
from ingest.pyramid import TILE_PX

_BOX_FIELDS = 16  # of an anchor: centre x, y, width, height, then six landmarks that are not used here
_LOGIT_LIMIT = 60.0  # keeps exp() finite; beyond it, a float32 probability is 0 or 1
_CONFIDENCE_STEP = 2.0**-20  # confidences are multiples of this, because the last bits of exp() depend on the CPU


@dataclass(frozen=True, slots=True)
class Layout:
    """The input and output of a network.

    Attributes:
        side: the side of its tiles in pixels.
        grids: (pixels between cells, anchors in a cell) of each grid of outputs.
    """

    side: int
    grids: tuple[tuple[int, int], ...]

    def place_anchors(self) -> NDArray[np.float64]:
        """Return the anchors' (x, y) in tile pixels, (A, 2): the centres of the cells, row by row, grid by grid."""
        grids = []
        for stride, repeats in self.grids:
            centres = (np.arange(self.side // stride) + 0.5) * stride
            cells = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
            grids.append(np.repeat(cells, repeats, axis=0))
        return np.concatenate(grids)


BACK = Layout(TILE_PX, ((16, 2), (32, 6)))
FULL_RANGE = Layout(192, ((4, 1),))


class BlazeFace:
    """The compiled network.

    Threads may share it. The same tile gives the same boxes for any number of threads.

    Attributes:
        layout: its input and output.

    Raises:
        ValueError: the file is not a BlazeFace model of that layout that OpenVINO can read.
        DeviceUnavailable: see `require_instructions`.
    """

    def __init__(self, model: Path, layout: Layout, threads: int) -> None:
        self.layout = layout
        self._anchors = layout.place_anchors()
        network = _compile(model, layout.side, len(self._anchors), threads)
        self._idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(threads):
            self._idle.put(network.create_infer_request())
        # On its first use, OpenVINO's binding prepares NumPy under a lock while it holds the interpreter's lock: two
        # threads can deadlock there (measured: one start in 40). So the first use is here, in one thread.
        self._find_one(np.zeros((layout.side, layout.side, 3), np.uint8), min_confidence=1.0)
        self._workers = ThreadPoolExecutor(threads, "blazeface")

    def find(self, tiles: Sequence[NDArray[np.uint8]], min_confidence: float) -> list[NDArray[np.float64]]:
        """Return, for each tile, a row for every anchor with at least `min_confidence`.

        A tile is uint8 RGB, (side, side, 3). A row is (x, y, width, height, confidence): corner and size in tile
        pixels. Rows of one face overlap; a part of a box may lie outside its tile.
        """
        return list(self._workers.map(partial(self._find_one, min_confidence=min_confidence), tiles))

    def _find_one(self, tile: NDArray[np.uint8], min_confidence: float) -> NDArray[np.float64]:
        request = self._idle.get()
        try:
            request.infer([tile[np.newaxis]], share_inputs=True)
            tensors = [request.get_output_tensor(index).data[0] for index in range(2)]
            logits, boxes = sorted(tensors, key=lambda tensor: int(tensor.shape[-1]))
            return decode_anchors(boxes, logits[:, 0], self._anchors, min_confidence)
        finally:
            self._idle.put(request)


def decode_anchors(
    boxes: NDArray[np.float32], logits: NDArray[np.float32], anchors: NDArray[np.float64], min_confidence: float
) -> NDArray[np.float64]:
    """Return rows (x, y, width, height, confidence) from predicted `boxes` (A, 16) and `logits` (A,) at `anchors`.

    A box's centre is relative to its anchor, its size is absolute; both are in pixels.
    """
    sigmoid = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -_LOGIT_LIMIT, _LOGIT_LIMIT)))
    confidence = np.rint(sigmoid / _CONFIDENCE_STEP) * _CONFIDENCE_STEP
    anchor = np.flatnonzero(confidence >= min_confidence)
    centre, size = anchors[anchor] + boxes[anchor, :2], boxes[anchor, 2:4].astype(np.float64)
    found = np.concatenate([centre - size / 2, size, confidence[anchor, np.newaxis]], axis=1)
    valid: NDArray[np.float64] = found[(size > 0).all(axis=1)]
    return valid


def _compile(model: Path, side: int, anchors: int, threads: int) -> ov.CompiledModel:
    """Read the file, prepend the normalisation and compile for the CPU."""
    try:
        network = read_network(model)
    except (RuntimeError, ValueError) as error:
        message = f"{model}: OpenVINO cannot read the face detector ({error}); verify the bundle"
        raise ValueError(message) from error
    shapes = sorted(tuple(port.partial_shape.to_shape()) for port in [*network.inputs, *network.outputs])
    if shapes != sorted([(1, side, side, 3), (1, anchors, 1), (1, anchors, _BOX_FIELDS)]):
        message = f"{model}: tensors {shapes} are not those of this BlazeFace; verify the bundle"
        raise ValueError(message)
    steps = ov.preprocess.PrePostProcessor(network)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NHWC"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean(127.5).scale(127.5)
    return compile_network(steps.build(), {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads})
