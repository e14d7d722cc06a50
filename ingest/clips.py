"""Clips: which bytes are a video or an animation, what one may cost, and which of its frames are scored.

Nothing is decoded here. `ingest.video` reads clips, in the limited processes of the sandbox only.

Sampling. Time is divided into slots of equal length, and each slot gives one frame: its first key frame, else the
first frame that other frames refer to. Both are stored with more bits than the frames between them, and the decoder
may skip the rest. The times are those that the container states for each frame, so that a variable frame rate needs no
rule of its own. A slot is 1 / `frames_per_second` long, shorter in a clip that would give fewer than `MIN_FRAMES`, and
longer in one that would give more than `max_frames`.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ingest.crops import read_crop
from ingest.formats import jxl, png
from ingest.probe import EncodedFace
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox

Sampling = Literal["interval", "key_frames", "scenes"]
MIN_FRAMES = 5  # of a short clip, spread over its whole duration
MAX_FRAMES = 300
MAX_FACES = 600  # of a clip, over all sampled frames

# The demuxer of each type; no other is opened.
CONTAINERS = {
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/webm": "matroska",
    "video/x-msvideo": "avi",
    "video/mp2t": "mpegts",
}
ANIMATIONS = {"image/gif": "GIF", "image/png": "PNG", "image/webp": "WEBP"}
_STILL_BRANDS = re.compile(rb"avif|avis|heic|heix|heim|heis|hevc|hevx|mif1|mif3|msf1|crx ")
_SIGNATURES = tuple(
    (re.compile(signature, re.DOTALL), media_type)
    for signature, media_type in (
        (rb".{4}(ftypqt  |moov|mdat|wide|free|skip|pnot)", "video/quicktime"),
        (rb".{4}ftyp", "video/mp4"),
        (rb"\x1aE\xdf\xa3", "video/webm"),
        (rb"RIFF.{4}AVI ", "video/x-msvideo"),
        (rb"G.{187}G.{187}G", "video/mp2t"),  # packets of 188 bytes
        (rb"GIF8[79]a", "image/gif"),
    )
)


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """How clips are sampled, and the limits of one clip. `limits.max_bytes` limits its bytes.

    Attributes:
        sampling: `interval`, see the module; `key_frames`, only key frames; `scenes`, the first frame and the first one
            after each change of scene.
        frames_per_second: of the sampled frames.
        max_frames: most sampled frames; a longer clip is sampled at a lower rate.
        max_decoded_frames: most frames in the clip.
        max_pixels: of one frame.
        max_decoded_pixels: pixels of one frame x frames in the clip.
        max_bit_rate: bits per second, over the whole clip.
        cpu_s, timeout_s: of the processor and of wall time, to find the faces of one clip.
    """

    sampling: Sampling = "interval"
    frames_per_second: float = 1.0
    max_frames: int = MAX_FRAMES
    max_duration_s: float = 300.0
    max_decoded_frames: int = 20_000
    max_pixels: int = 36_000_000
    max_decoded_pixels: int = 40_000_000_000
    max_streams: int = 16
    max_bit_rate: int = 400_000_000
    cpu_s: float = 45.0
    timeout_s: float = 55.0

    def __post_init__(self) -> None:
        if not (0 < self.frames_per_second <= 1000 and 1 <= self.max_frames <= MAX_FRAMES):  # noqa: PLR2004 - as written
            message = f"frames_per_second must be in (0, 1000], and max_frames in 1..{MAX_FRAMES}"
            raise ValueError(message)


DEFAULT_CLIP_SETTINGS = ClipSettings()


@dataclass(frozen=True, slots=True)
class ClipFace:
    """A face of a sampled frame.

    Attributes:
        box: in upright pixels of the frame.
        window_px: shorter side of the window that was cut, in pixels of the frame.
        crop: the face as the engine gets it, a PNG.
    """

    box: FaceBox
    confidence: float
    window_px: int
    crop: EncodedFace


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """A frame that was searched for faces: its time from the first frame, its upright size, and its faces."""

    time_s: float
    width: int
    height: int
    faces: tuple[ClipFace, ...]


@dataclass(frozen=True, slots=True)
class SampledClip:
    """The sampled frames of a clip in order of time; `damage` states why some are missing, or is None."""

    frames: tuple[SampledFrame, ...]
    damage: Unscorable | None


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What reading a clip's packets showed, without decoding them.

    Attributes:
        width, height: stored pixels of a frame, before its rotation.
        frames: in the clip.
        duration_s: from the first frame's time to the end of the last one.
        codec: FFmpeg's name, or the format of an animation.
        hdr: `pq` or `hlg` where the frames have such a transfer function.
    """

    media_type: str
    width: int
    height: int
    frames: int
    duration_s: float
    streams: int = 1
    codec: str = ""
    hdr: str | None = None


def name_clip(data: bytes) -> str | None:
    """Return the media type of a video or a GIF, or None for all other bytes.

    A PNG or WebP may also be animated: `probe_image` finds that.
    """
    head = data[:4096]
    if head[4:8] == b"ftyp":
        end = min(max(int.from_bytes(head[:4], "big"), 12), 256)
        if _STILL_BRANDS.search(head[8:12] + head[16:end]):
            return None
    return next((media_type for signature, media_type in _SIGNATURES if signature.match(head)), None)


def name_animation(data: bytes) -> str:
    """Return the media type of bytes that `probe_image` refused as animated; "" for JPEG XL, whose frames are not read.

    A sequence in HEIF or AVIF is a video: its frames refer to each other.
    """
    if jxl.is_jxl(data):
        return ""
    if data[4:8] == b"ftyp":
        return "video/mp4"
    return "image/png" if data.startswith(png.MAGIC) else "image/webp"


def check_facts(facts: ClipFacts, size: int, settings: ClipSettings) -> None:
    """Refuse a clip outside the limits.

    Args:
        facts: of the clip.
        size: its bytes.
        settings: with the limits.

    Raises:
        Unscorable: too_many_streams, too_many_pixels, too_many_frames, too_long or bit_rate_too_high.
    """
    pixels = facts.width * facts.height
    rate = 8 * size / max(facts.duration_s, 1.0)
    for value, limit, name, reason, what in (
        (facts.streams, settings.max_streams, "max_streams", Reason.TOO_MANY_STREAMS, "streams"),
        (pixels, settings.max_pixels, "max_pixels", Reason.TOO_MANY_PIXELS, "pixels a frame"),
        (facts.frames, settings.max_decoded_frames, "max_decoded_frames", Reason.TOO_MANY_FRAMES, "frames"),
        (
            pixels * facts.frames,
            settings.max_decoded_pixels,
            "max_decoded_pixels",
            Reason.TOO_MANY_PIXELS,
            "pixels in all frames",
        ),
        (facts.duration_s, settings.max_duration_s, "max_duration_s", Reason.TOO_LONG, "seconds"),
        (rate, settings.max_bit_rate, "max_bit_rate", Reason.BIT_RATE_TOO_HIGH, "bits a second"),
    ):
        if value > limit:
            message = f"the clip has {value:.10g} {what}; the limit is {limit:.10g} (setting video.{name})"
            raise Unscorable(reason, message)


def plan_times(duration_s: float, key_times_s: Sequence[float], settings: ClipSettings) -> list[float]:
    """Return the time of each slot, ascending: the first frame at that time or later is wanted.

    It is the start of the slot, or the slot's first key frame.

    Args:
        duration_s: of the clip.
        key_times_s: times of its key frames, ascending, from 0 on.
        settings: with the sampling.
    """
    if settings.sampling == "key_frames":
        return list(key_times_s[:: -(-len(key_times_s) // settings.max_frames) or 1])
    length = min(1 / settings.frames_per_second, duration_s / MIN_FRAMES)
    length = max(length, duration_s / settings.max_frames)
    times = [0.0]
    while length > 0 and len(times) < settings.max_frames and len(times) * length < duration_s:
        start, end = len(times) * length, (len(times) + 1) * length
        at = bisect_left(key_times_s, start)
        times.append(key_times_s[at] if at < len(key_times_s) and key_times_s[at] < end else start)
    return times


def parse_facts(answer: Mapping[str, Any]) -> ClipFacts:
    """Return the facts in the answer of a decoding process.

    Raises:
        LookupError, TypeError, ValueError: the answer is not valid.
    """
    raw = dict(answer["facts"])
    facts = ClipFacts(
        media_type=str(raw["media_type"]),
        width=int(raw["width"]),
        height=int(raw["height"]),
        frames=int(raw["frames"]),
        duration_s=float(raw["duration_s"]),
        streams=int(raw["streams"]),
        codec=str(raw["codec"]),
        hdr=None if raw["hdr"] is None else str(raw["hdr"]),
    )
    if min(facts.width, facts.height, facts.frames) < 1 or not 0 <= facts.duration_s < math.inf:
        raise ValueError(facts)
    return facts


def parse_sample(answer: Mapping[str, Any], data: memoryview) -> SampledClip:
    """Return the frames in the answer of a decoding process; `data` are the crops as PNG, one after the other.

    Raises:
        LookupError, TypeError, ValueError: the answer is not valid.
    """
    sizes, start, frames = iter(answer["sizes"]), 0, []
    for raw in answer["frames"]:
        faces = []
        for *box, confidence, window_px in raw["faces"]:
            size = int(next(sizes))
            crop = _read_crop(bytes(data[start : start + size]))
            faces.append(ClipFace(FaceBox(*map(float, box)), float(confidence), int(window_px), crop))
            start += size
        width, height = map(int, raw["size"])
        frames.append(SampledFrame(float(raw["time_s"]), width, height, tuple(faces)))
    if start != len(data):
        raise ValueError(start)
    damage = answer["damage"]
    return SampledClip(tuple(frames), damage and Unscorable(Reason(damage["reason"]), str(damage["detail"])))


def _read_crop(data: bytes) -> EncodedFace:
    try:
        return read_crop(data)
    except Unscorable as failure:
        raise ValueError(failure.detail) from failure
