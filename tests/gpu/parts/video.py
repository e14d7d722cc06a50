"""Videos by the GPU's decoder units (NVDEC), beside the CPU: frames of the same times, their pixels and crops, rates.

The limits of a clip are checked first, as in the sandbox. On a CPU, DALI decodes only VP9 and MJPEG of these codecs.
"""

import numpy as np
from clock import time_wall
from networks import draw_crops
from part import Part
from PIL import Image

from ingest.clips import ClipSettings, check_facts, name_clip
from ingest.dali import FaceCropper
from ingest.dali_video import DeviceVideoCropper
from ingest.device import load_array_module
from ingest.probe import ImageInfo
from ingest.spec import PreprocessSpec, Window
from ingest.video import Damage, read_facts, read_frames
from tests.clips import make_clip

FPS = 25
SETTINGS = ClipSettings(frames_per_second=5)


def measure_codec(part: Part, kind: str, pictures: list[Image.Image]) -> None:
    """State one codec's figures."""
    clip, spec, xp = make_clip(pictures, kind, fps=FPS), PreprocessSpec(), load_array_module(part.device)
    facts = read_facts(clip, str(name_clip(clip)))
    check_facts(facts, len(clip), SETTINGS)
    sampled = list(read_frames(clip, facts, SETTINGS, Damage()))
    numbers = [round(frame.time_s * FPS) for frame in sampled]
    side = min(facts.width, facts.height)
    window, info = Window(0, 0, side, side), ImageInfo(facts.media_type, facts.width, facts.height, 1, "")
    cropper, host = DeviceVideoCropper(spec, 2, part.device), FaceCropper(spec, 1, 1)
    frames, crops = (
        np.array(each) if xp is np else xp.asnumpy(each) for each in cropper.crop(clip, info, numbers, window)
    )
    expected = np.stack([frame.pixels for frame in sampled]).astype(np.int16)
    apart = np.array([[np.abs(frame - other).mean() for other in expected] for frame in frames.astype(np.int16)])
    part.record(f"{kind}: frames of another time", (apart.argmin(axis=1) != np.arange(len(apart))).sum(), "frames")
    part.record(f"{kind}: mean difference of frames", float(np.diag(apart).mean()), "levels")
    cut = [host.resize(np.ascontiguousarray(frame.pixels[:side, :side])) for frame in sampled]
    part.record(f"{kind}: mean difference of crops", np.abs(crops.astype(int) - np.stack(cut)).mean(), "levels")
    works = {
        "CPU, one thread": lambda: list(read_frames(clip, facts, SETTINGS, Damage())),
        "device": lambda: cropper.crop(clip, info, numbers, window),
    }
    for name, work in works.items():
        rate = len(sampled) / time_wall(work, part.device, part.choose(5, 1))
        part.record(f"{kind}: sampled by the {name}", rate, "frames/s")


def measure(part: Part) -> None:
    """State every codec's figures."""
    count, size = part.choose((250, (1920, 1080)), (25, (320, 240)))
    scene = Image.fromarray(draw_crops(1, seed=8)[0]).resize(size)
    pictures = [Image.fromarray(np.roll(np.asarray(scene), 12 * number, axis=1)) for number in range(count)]
    for kind in part.choose(("h264", "hevc", "vp9", "av1", "mjpeg"), ("vp9", "mjpeg")):
        with part.attempt(kind):
            measure_codec(part, kind, pictures)
