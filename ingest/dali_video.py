"""Decodes frames of a video on a GPU (NVDEC) with NVIDIA DALI and cuts a window out of each; all pixels stay there.

No job uses it: it has not run on a GPU, and clips are read by `ingest.video` in the sandbox. `make gpu` compares both
(part `video`). On a CPU, DALI decodes VP8, VP9 and MJPEG only; there frames and crops are those of `ingest.video` bit
for bit. What is left before a job may use it: DALI would parse the container in the process that scores, and reports
no damage, so that the packets must be read in the sandbox first and damaged clips be left there.

Not covered: HDR, and whole frames for the detector, which works on a CPU.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from ingest.dali_graph import resize_and_turn
from ingest.device import Kind, load_array_module
from ingest.orientation import find_stored_window, turn_matrix
from ingest.probe import ImageInfo
from ingest.spec import PreprocessSpec, Window

Array = Any  # NumPy's on the CPU, CuPy's on a GPU


class DeviceVideoCropper:
    """Decodes and cuts on `device`; crops follow `spec`. A video has passed `ingest.clips.check_facts`."""

    def __init__(self, spec: PreprocessSpec, threads: int, device: Kind) -> None:
        self._spec, self._xp = spec, load_array_module(device)
        self._pipeline = Pipeline(1, threads, 0 if device == "cuda" else None, prefetch_queue_depth=1)
        declare_video(self._pipeline, device, spec)
        self._pipeline.build()

    def crop(self, data: bytes, info: ImageInfo, numbers: Sequence[int], window: Window) -> tuple[Array, Array]:
        """Return frames [F, H, W, 3] as stored, and upright crops [F, size, size, 3], both uint8 on the device.

        They are valid until the next call.

        Args:
            data: the video.
            info: of its frames; the orientation is that of EXIF for the rotation that the container states.
            numbers: of the frames, from 0 in the order of their times.
            window: in upright pixels.

        Raises:
            RuntimeError: the video cannot be decoded, or has no such frame.
        """
        stored = find_stored_window(window, info)
        frames, crops = self._pipeline.run(
            video=[np.frombuffer(data, np.uint8)],
            numbers=[np.array(numbers, np.int32)],
            start=[np.array([stored.left, stored.top], np.int32)],
            shape=[np.array([stored.width, stored.height], np.int32)],
            turn=[turn_matrix(info.orientation, self._spec.size)],
        )
        found, cut = (self._xp.from_dlpack(each.as_tensor())[0] for each in (frames, crops))
        return found, cut


def declare_video(pipeline: Pipeline, device: Kind, spec: PreprocessSpec) -> None:
    """Declare the graph: a video and numbers of frames -> frames and crops, on the device."""
    with pipeline:
        video = fn.external_source(name="video", dtype=types.UINT8, ndim=1)
        numbers, start, shape = (
            fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("numbers", "start", "shape")
        )
        turn = fn.external_source(name="turn", dtype=types.FLOAT, ndim=2)
        place = "mixed" if device == "cuda" else "cpu"
        frames = fn.decoders.video(video, frames=numbers, pad_mode="none", device=place)
        pipeline.set_outputs(frames, resize_and_turn(fn.slice(frames, start, shape, axis_names="WH"), turn, spec))
