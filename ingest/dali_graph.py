"""The graph with which the DALI backend of a Triton Inference Server cuts faces, and its serialised form.

It does in one graph what `FaceCropper` does face by face in Python, so that decoding and cutting stay on the GPU. A
graph cannot read EXIF: the client strips the metadata, and sends the window in stored pixels and the matrix that turns
the crop upright (`ingest.orientation`). The crop is turned after the resize instead of before: it differs from that of
`FaceCropper` by one grey level in at most 0.1 % of its values. An upright crop is the same bit for bit, if both are
decoded on a CPU.

Not covered: damage that nvJPEG fills with grey. `ingest.dali` finds it, and the client sends no JPEG that is not known
to be sound (`scorer.engines.precut`).
"""

from typing import Any, Literal

from nvidia.dali import fn, types
from nvidia.dali._utils import dali_trace
from nvidia.dali.pipeline import Pipeline

from ingest.spec import PreprocessSpec

IMAGE, WINDOW, TURN = "image", "window", "turn"


def build_serving_pipeline(spec: PreprocessSpec, device: Literal["cpu", "gpu"], max_batch: int) -> Pipeline:
    """Return the graph, not yet built: encoded faces to crops (size, size, 3) of uint8, on `device`.

    Inputs, in host memory: `image` uint8 [bytes], the file without metadata; `window` int32 [4], left, top, width and
    height in stored pixels; `turn` float32 [2, 3], the `turn_matrix`.
    """
    # No device id: the server sets its own, and a machine without a GPU can serialise the graph.
    pipeline = Pipeline(batch_size=max_batch, num_threads=1, device_id=None, prefetch_queue_depth=1, seed=0)
    with pipeline:
        window = fn.external_source(name=WINDOW, dtype=types.INT32, ndim=1)
        image = fn.external_source(name=IMAGE, dtype=types.UINT8, ndim=1)
        region = decode_region(image, window[0:2], window[2:4], device)
        turn = fn.external_source(name=TURN, dtype=types.FLOAT, ndim=2)
        pipeline.set_outputs(resize_and_turn(region, turn, spec))
    return pipeline


def decode_region(
    image: Any,  # noqa: ANN401 - DALI's nodes have no types
    start: Any,  # noqa: ANN401
    shape: Any,  # noqa: ANN401
    device: Literal["cpu", "gpu"],
    hw_decoder_load: float | None = None,
) -> Any:  # noqa: ANN401
    """Declare: encoded bytes, and left, top and width, height in stored pixels -> these pixels (H, W, 3), RGB.

    `hw_decoder_load` is the share of JPEGs that a GPU's JPEG engine decodes; None is DALI's default.
    """
    return fn.decoders.image_slice(
        image,
        start,
        shape,
        normalized_anchor=False,
        normalized_shape=False,
        axis_names="WH",
        adjust_orientation=False,  # wrong together with regions before DALI's pull request 6344
        output_type=types.RGB,
        jpeg_fancy_upsampling=True,  # as in libjpeg-turbo; nvJPEG's default repeats chroma samples
        device="mixed" if device == "gpu" else "cpu",
        hw_decoder_load=hw_decoder_load,
    )


def resize_and_turn(face: Any, turn: Any, spec: PreprocessSpec) -> Any:  # noqa: ANN401 - DALI's nodes have no types
    """Declare: stored pixels of faces and `turn_matrix` of each -> upright crops (size, size, 3) of uint8."""
    side = [spec.size, spec.size]
    crop = fn.resize(
        face,
        size=side,
        interp_type={"triangular": types.INTERP_TRIANGULAR}[spec.interpolation],
        antialias=spec.antialias,
        dtype=types.UINT8,
    )
    # Nearest neighbours of a quarter turn or a mirror: every pixel moves to exactly one position.
    return fn.warp_affine(crop, matrix=turn, size=side, interp_type=types.INTERP_NN, inverse_map=True)


def serialize_crops(spec: PreprocessSpec, max_batch: int) -> bytes:
    """Return the graph for a GPU as the file that the DALI backend reads."""
    traced = dali_trace.is_tracing_enabled()
    dali_trace.set_tracing(enabled=False)  # else the file contains paths of this machine; DALI has no public setting
    try:
        data: bytes = build_serving_pipeline(spec, "gpu", max_batch).serialize()
    finally:
        dali_trace.set_tracing(enabled=traced)
    return data
