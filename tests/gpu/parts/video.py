"""Videos on the GPU's decoder units (NVDEC), beside the CPU: frames of the same times, their pixels, crops, rates.

No job decodes so: it has not run on a GPU. DALI would parse the container in the process that scores, and reports no
damage. What this part has to show first is that frames named by the rank of their times are those of `ingest.video`,
within two grey levels. On a CPU, DALI decodes VP9 and MJPEG of these codecs, bit for bit as FFmpeg does.
"""

import numpy as np
from clock import time_wall
from networks import draw_crops
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from part import Part
from PIL import Image

from ingest.clips import ClipSettings, check_facts, name_clip
from ingest.dali import FaceCropper
from ingest.dali_graph import resize_and_turn
from ingest.device import Kind
from ingest.orientation import turn_matrix
from ingest.spec import PreprocessSpec
from ingest.video import Damage, read_facts, read_frames
from tests.clips import make_clip

FPS = 25
SETTINGS = ClipSettings(frames_per_second=5)


def build_pipeline(device: Kind, spec: PreprocessSpec, side: int) -> Pipeline:
    """Return the graph: a video and numbers of frames -> frames [F, H, W, 3], and crops of their upper left square."""
    pipeline = Pipeline(1, 2, 0 if device == "cuda" else None, prefetch_queue_depth=1)
    with pipeline:
        video, numbers = (
            fn.external_source(name=name, dtype=dtype, ndim=1)
            for name, dtype in (("video", types.UINT8), ("numbers", types.INT32))
        )
        place = "mixed" if device == "cuda" else "cpu"
        frames = fn.decoders.video(video, frames=numbers, pad_mode="none", device=place)
        square = fn.slice(frames, [0, 0], [side, side], axis_names="WH")
        pipeline.set_outputs(frames, resize_and_turn(square, turn_matrix(1, spec.size).ravel().tolist(), spec))
    pipeline.build()
    return pipeline


def measure_codec(part: Part, kind: str, pictures: list[Image.Image]) -> None:
    """State one codec's figures; the limits of a clip are checked first, as in the sandbox."""
    clip, spec = make_clip(pictures, kind, fps=FPS), PreprocessSpec()
    facts = read_facts(clip, str(name_clip(clip)))
    check_facts(facts, len(clip), SETTINGS)
    sampled = list(read_frames(clip, facts, SETTINGS, Damage()))
    numbers = np.array([round(frame.time_s * FPS) for frame in sampled], np.int32)
    pipeline, resizer = build_pipeline(part.device, spec, facts.height), FaceCropper(spec, 1, 1)

    def decode() -> list[np.ndarray]:
        outputs = pipeline.run(video=[np.frombuffer(clip, np.uint8)], numbers=[numbers])
        return [np.array(each.as_cpu()[0]).astype(np.int16) for each in outputs]

    frames, crops = decode()
    expected = np.stack([frame.pixels for frame in sampled])
    apart = np.array([[np.abs(frame - other).mean() for other in expected] for frame in frames])
    part.record(f"{kind}: frames of another time", (apart.argmin(axis=1) != np.arange(len(apart))).sum(), "frames")
    part.record(f"{kind}: mean difference of frames", float(np.diag(apart).mean()), "levels")
    cut = [resizer.resize(np.ascontiguousarray(frame[:, : facts.height])) for frame in expected]
    part.record(f"{kind}: mean difference of crops", np.abs(crops - np.stack(cut)).mean(), "levels")
    for name, work in (
        ("one thread of the CPU", lambda: list(read_frames(clip, facts, SETTINGS, Damage()))),
        ("device, with a copy to the host", decode),
    ):
        rate = len(sampled) / time_wall(work, part.device, part.choose(5, 1))
        part.record(f"{kind}: {name}", rate, "frames/s")


def measure(part: Part) -> None:
    """State every codec's figures."""
    count, size = part.choose((250, (1920, 1080)), (25, (320, 240)))
    scene = np.asarray(Image.fromarray(draw_crops(1, seed=8)[0]).resize(size))
    pictures = [Image.fromarray(np.roll(scene, 12 * number, axis=1)) for number in range(count)]
    for kind in part.choose(("h264", "hevc", "vp9", "av1", "mjpeg"), ("vp9", "mjpeg")):
        with part.attempt(kind):
            measure_codec(part, kind, pictures)
