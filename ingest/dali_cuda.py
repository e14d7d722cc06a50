"""Cuts faces on a GPU with NVIDIA DALI: decodes, cuts, resizes and turns there; the crops stay in its memory.

There are two graphs, because an image may have several faces. The first decodes each distinct image once, and only the
rectangle around its faces (`mixed`: nvJPEG for JPEG; DALI's host decoders for PNG, WebP and unusual JPEGs). The second
takes those pixels on the device, cuts each face, resizes it as `ingest.dali` does, and turns the crop upright last,
where it costs least. Crops leave by DLPack. Both graphs also run without a GPU (`device="cpu"`), for tests: an upright
crop is that of `ingest.dali` bit for bit; a turned one differs by a rounding in a few values.

Damage: as in `ingest.dali`, with one more step. An image that fails in a batch is decoded again alone. If it fails
alone, the CPU's cropper decides. So a bad image affects no other, and neither a JPEG that nvJPEG cannot read nor a lack
of GPU memory makes a photograph `undecodable`. Not detectable: nvJPEG prints no warnings as libjpeg does. So a JPEG
comes here only after libjpeg has read all of it without one (`scorer.engines.precut`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.backend import ReleaseUnusedMemory  # type: ignore[attr-defined]  # DALI's stubs leave it out
from nvidia.dali.pipeline import Pipeline

from ingest.dali import FaceCropper
from ingest.dali_graph import decode_region, resize_and_turn
from ingest.decode_batches import (
    BATCH_PIXELS_PER_THREAD,
    IMAGE_FAILURE,
    LIBJPEG_WARNING,
    FaceGroup,
    batch_groups,
    exceeds_dali,
    needs_sandbox,
    split_batches,
)
from ingest.device import Kind, load_array_module
from ingest.native_messages import NativeMessages
from ingest.orientation import find_stored_window, turn_matrix
from ingest.probe import EncodedFace, strip_metadata
from ingest.reasons import Unscorable
from ingest.spec import PreprocessSpec, Window

Array = Any  # NumPy's on the CPU, CuPy's on a GPU
Failures = dict[int, Unscorable]
HW_DECODER_LOAD = 0.65  # DALI's default


class DeviceCropper:
    """Cuts faces out of encoded images on `device`; crops follow `spec`.

    Only one thread may use a cropper. On a GPU all work is queued on CuPy's current stream: `crop` waits for the host
    part of the decoders, and does not wait for the GPU.

    Args:
        spec: how a face is cut.
        threads: CPU threads that decode in parallel.
        max_batch: the most images or faces of a batch; it has fewer large ones.
        device: where the graphs run.
        hw_decoder_load: the share of JPEGs that the GPU's JPEG engine decodes, 0 to 1.

    Attributes:
        spec: how a face is cut.
    """

    def __init__(
        self,
        spec: PreprocessSpec,
        threads: int,
        max_batch: int,
        device: Kind,
        hw_decoder_load: float = HW_DECODER_LOAD,
    ) -> None:
        self.spec, self._threads, self._max_batch, self._device = spec, threads, max_batch, device
        self._hw_decoder_load = hw_decoder_load
        self._max_pixels = threads * BATCH_PIXELS_PER_THREAD
        self._xp = load_array_module(device)
        self._messages = NativeMessages()
        self._host: FaceCropper | None = None
        self._broken = False
        self._decoder, self._cutter = self._build_decoder(), self._build_cutter()

    def crop(self, faces: Sequence[EncodedFace]) -> tuple[Array, Failures]:
        """Return the crops [N, size, size, 3] uint8 on the device, in the order of `faces`, and the failed positions.

        The crop of a failed face is black.

        Raises:
            ValueError: a face of a HEIC, AVIF or JPEG XL image.
            RuntimeError, MemoryError: the device or the decoder failed, not because of an image. The cropper can be
                used again, if the GPU can.
        """
        if any(needs_sandbox(face.info) for face in faces):
            message = "HEIC, AVIF and JPEG XL are decoded in limited processes only: give crops (scorer.engines.precut)"
            raise ValueError(message)
        if self._broken:
            self._rebuild()
        crops = self._xp.zeros((len(faces), self.spec.size, self.spec.size, 3), np.uint8)
        failures: Failures = {}
        try:
            for batch in batch_groups(faces, self._max_batch, self._max_pixels):
                together = [group for group in batch if not exceeds_dali(group.info)]
                failures |= self._crop_groups(together, crops) if together else {}
                for group in batch:
                    if exceeds_dali(group.info):
                        failures |= self._crop_on_host(group, crops)
        except Exception:
            self._broken = True
            raise
        return crops, failures

    def _crop_groups(self, groups: list[FaceGroup], crops: Array) -> Failures:
        regions = self._decode(groups)
        if regions is None and len(groups) > 1:
            alone = [self._crop_groups([group], crops) for group in groups]
            return {position: failure for failures in alone for position, failure in failures.items()}
        if regions is None:
            return self._crop_on_host(groups[0], crops)
        faces = [
            ((position, region, window, group), window.width * window.height)
            for group, region in zip(groups, regions, strict=True)
            for position, window in group.windows.items()
        ]
        for batch in split_batches(faces, self._max_batch, self._max_pixels):
            positions = [position for position, *_ in batch]
            contiguous = positions == list(range(positions[0], positions[-1] + 1))  # a slice is faster than a list
            rows = slice(positions[0], positions[-1] + 1) if contiguous else positions
            crops[rows] = self._cut([(region, window, group) for _, region, window, group in batch])
        return {}

    def _decode(self, groups: list[FaceGroup]) -> list[Any] | None:
        """Return each group's region, stored pixels (H, W, 3), or None if one of them failed or has a warning."""
        windows = [group.find_region() for group in groups]
        with self._messages.collect() as lines:
            try:
                decoded = self._decoder.run(
                    self._stream(),
                    image=[np.frombuffer(strip_metadata(g.data, g.info.media_type), np.uint8) for g in groups],
                    start=[np.array([window.left, window.top], np.int32) for window in windows],
                    shape=[np.array([window.width, window.height], np.int32) for window in windows],
                )[0]
            except RuntimeError as error:
                if not IMAGE_FAILURE.search(str(error)):
                    raise
                self._decoder = self._build_decoder()
                return None
        # The lines are dropped: the CPU's cropper decodes an image with a warning again, and reports it.
        return None if any(map(LIBJPEG_WARNING.match, lines)) else [decoded[i] for i in range(len(groups))]

    def _crop_on_host(self, group: FaceGroup, crops: Array) -> Failures:
        if self._device == "cuda":
            self._xp.cuda.runtime.deviceSynchronize()  # raises if the GPU is lost, which is no failure of the image
        if self._host is None:
            self._host = FaceCropper(self.spec, self._threads, self._max_batch)
        failures: Failures = {}
        faces = [EncodedFace(group.data, group.info, window) for window in group.windows.values()]
        for position, crop in zip(group.windows, self._host.crop(faces), strict=True):
            if isinstance(crop, Unscorable):
                failures[position] = crop
            else:
                crops[position] = self._xp.asarray(crop)
        return failures

    def _cut(self, faces: list[tuple[Any, Window, FaceGroup]]) -> Array:
        """Return the upright crops [F, size, size, 3]; DALI owns them until its next run."""
        stream = self._stream()
        starts, shapes = [], []
        for _, window, group in faces:
            origin, stored = group.find_region(), find_stored_window(window, group.info)
            starts.append(np.array([stored.left - origin.left, stored.top - origin.top], np.int32))
            shapes.append(np.array([stored.width, stored.height], np.int32))
        regions = [region for region, *_ in faces]
        # On a GPU one kernel copies all regions, instead of one copy for each.
        self._cutter.feed_input("region", regions, cuda_stream=stream, use_copy_kernel=self._device == "cuda")
        cut = self._cutter.run(
            stream,
            start=starts,
            shape=shapes,
            turn=[turn_matrix(group.info.orientation, self.spec.size) for *_, group in faces],
        )[0]
        return self._xp.from_dlpack(cut.as_tensor())

    def _stream(self) -> Any:  # noqa: ANN401 - CuPy has no types
        return self._xp.cuda.get_current_stream() if self._device == "cuda" else None

    def _rebuild(self) -> None:
        """Replace both pipelines, which are unusable after an error; free their memory first."""
        del self._decoder, self._cutter
        ReleaseUnusedMemory()
        self._decoder, self._cutter = self._build_decoder(), self._build_cutter()
        self._broken = False

    def _open_pipeline(self) -> Pipeline:
        device_id = 0 if self._device == "cuda" else None
        # DALI crashes when batches differ in size from run to run, except with a queue of one.
        return Pipeline(self._max_batch, self._threads, device_id, prefetch_queue_depth=1)

    def _build_decoder(self) -> Pipeline:
        pipeline = self._open_pipeline()
        declare_decoder(pipeline, self._device, self._hw_decoder_load)
        pipeline.build()
        return pipeline

    def _build_cutter(self) -> Pipeline:
        pipeline = self._open_pipeline()
        declare_cutter(pipeline, self._device, self.spec)
        pipeline.build()
        return pipeline


def declare_decoder(pipeline: Pipeline, device: Kind, hw_decoder_load: float) -> None:
    """Declare: encoded bytes and a stored rectangle -> its stored pixels (H, W, 3), RGB, on the device."""
    with pipeline:
        pipeline.set_outputs(
            decode_region(
                # A GPU may still read its input after the call: there DALI makes a copy.
                fn.external_source(name="image", dtype=types.UINT8, ndim=1, no_copy=device == "cpu"),
                fn.external_source(name="start", dtype=types.INT32, ndim=1),
                fn.external_source(name="shape", dtype=types.INT32, ndim=1),
                "gpu" if device == "cuda" else "cpu",
                hw_decoder_load=hw_decoder_load,
            )
        )


def declare_cutter(pipeline: Pipeline, device: Kind, spec: PreprocessSpec) -> None:
    """Declare: stored pixels (H, W, 3), a rectangle in them and a turn -> (size, size, 3), upright, on the device."""
    with pipeline:
        region = fn.external_source(
            name="region",
            device="gpu" if device == "cuda" else "cpu",
            dtype=types.UINT8,
            ndim=3,
            layout="HWC",
            no_copy=device == "cpu",  # as above; on a GPU DALI copies the samples into one buffer in any case
        )
        start, shape = (fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("start", "shape"))
        turn = fn.external_source(name="turn", dtype=types.FLOAT, ndim=2)
        pipeline.set_outputs(resize_and_turn(fn.slice(region, start, shape, axis_names="WH"), turn, spec))
