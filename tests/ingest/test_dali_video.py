"""The GPU's decoder of videos, run on the CPU: the frames of `ingest.video`, and their crops, bit for bit."""

import numpy as np
import pytest
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from ingest.clips import ClipSettings, name_clip
from ingest.dali import FaceCropper
from ingest.dali_video import DeviceVideoCropper, declare_video
from ingest.orientation import turn_upright
from ingest.probe import ImageInfo
from ingest.spec import PreprocessSpec, Window
from ingest.video import Damage, read_facts, read_frames
from tests.clips import make_clip

SPEC = PreprocessSpec()
WINDOW = Window(30, 20, 70, 61)
TIMES_MS = [0, 40, 200, 230, 500, 510, 900, 1400, 1500, 2600]  # no constant rate
ORIENTATIONS = {0: 1, 90: 8, 180: 3, 270: 6}  # of EXIF, by degrees counter-clockwise


@pytest.fixture(scope="module")
def cropper() -> DeviceVideoCropper:
    """The GPU's cropper on the CPU."""
    return DeviceVideoCropper(SPEC, 2, "cpu")


@pytest.mark.parametrize(("kind", "rotation"), [("vp8", 0), ("vp9", 0), *(("mjpeg", turn) for turn in ORIENTATIONS)])
def test_frames_and_crops_are_those_of_the_cpu(cropper: DeviceVideoCropper, kind: str, rotation: int) -> None:
    """A frame's number is the rank of its time, at a variable rate, too; crops are upright."""
    coarse = np.random.default_rng(2).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((120, 100), Image.Resampling.BICUBIC))
    pictures = [Image.fromarray(np.roll(picture, 9 * number, axis=1)) for number in range(len(TIMES_MS))]
    clip = make_clip(pictures, kind, times_ms=TIMES_MS, rotation=rotation or None)
    facts = read_facts(clip, str(name_clip(clip)))
    sampled = list(read_frames(clip, facts, ClipSettings(frames_per_second=10), Damage()))
    height, width, _ = sampled[0].pixels.shape
    info = ImageInfo(facts.media_type, width, height, ORIENTATIONS[rotation], "")
    numbers = [TIMES_MS.index(round(1000 * frame.time_s)) for frame in sampled]
    frames, crops = cropper.crop(clip, info, numbers, WINDOW)
    resizer = FaceCropper(SPEC, 1, 1)
    assert len(numbers) > 4
    for frame, stored, crop in zip(sampled, frames, crops, strict=True):
        np.testing.assert_array_equal(turn_upright(stored, info.orientation), frame.pixels)
        part = frame.pixels[WINDOW.top :, WINDOW.left :][: WINDOW.height, : WINDOW.width]
        difference = np.abs(crop.astype(int) - resizer.resize(np.ascontiguousarray(part)))
        assert difference.max() <= bool(rotation)


def test_a_frame_that_is_not_there_is_an_error(cropper: DeviceVideoCropper) -> None:
    """No frame is made up, and the next video is read."""
    clip = make_clip([Image.new("RGB", (120, 100))] * 3, "vp9")
    info = ImageInfo("video/webm", 120, 100, 1, "")
    with pytest.raises(RuntimeError):
        cropper.crop(clip, info, [0, 3], WINDOW)
    assert len(cropper.crop(clip, info, [0, 2], WINDOW)[1]) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_graph_can_be_declared_without_a_gpu(device: str) -> None:
    """DALI accepts each operator, its arguments and its device; only a run needs a GPU."""
    pipeline = Pipeline(1, 1, None, prefetch_queue_depth=1)
    declare_video(pipeline, device, SPEC)  # type: ignore[arg-type]  # parametrize loses the literal
    assert (b"mixed" in pipeline.serialize()) == (device == "cuda")
