"""Reads clips: packets without decoding, then sampled upright RGB frames with their times. Runs in the sandbox only.

Videos are demuxed and decoded by FFmpeg (PyAV), on one thread, from memory; only the listed demuxers and decoders
are opened. Animations are decoded by Pillow.

Damage. The decoder reports wrong data as an error instead of concealing it. From an error or a missing packet on,
frames are dropped until the next key frame, since they refer to damaged ones. Not detectable: damage that decodes as
valid codes, most of it in HEVC, VP8 and VP9.

HDR (PQ and HLG). Samples become linear light, the reference white of ITU-R BT.2408 (203 cd/m2) becomes white, brighter
light is clipped, and colours are converted from BT.2020 to sRGB. A camera's own SDR file looks different.

Not covered: the shape of non-square pixels, interlaced fields, mirrored display matrices, alpha, colour primaries
other than BT.2020 in HDR. Frames keep their stored pixels.
"""

import io
import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.clips import ANIMATIONS, CONTAINERS, ClipFacts, ClipSettings, plan_times
from ingest.reasons import Reason, Unscorable

if TYPE_CHECKING:
    from av.container import InputContainer

try:
    import av
    from av.video.reformatter import Colorspace, Interpolation
except ModuleNotFoundError:  # the extra `video`; animations need only Pillow
    av = None  # type: ignore[assignment]

CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "ffv1"})
MAX_PACKETS = 1_000_000
SCENE_CHANGE = 24.0  # mean difference of two small grey pictures, in grey levels
SCENE_SIDE = 32
_LEAST_DELAY_S, _DEFAULT_DELAY_S = 0.01, 0.1  # browsers show a frame of an animation for 100 ms where it states less
SHORT_PACKETS = 60  # every frame of a shorter clip is decoded
_HD_HEIGHT = 720
_UNSPECIFIED, _BT709, _BT601, _BT2020 = 2, 1, 6, (9, 10)
_PQ, _HLG = 16, 18
_HLG_KNEE, _SRGB_KNEE = 0.5, 0.0031308  # above, the curve is not the square, or not linear
_EPSILON_S = 1e-6
_DAMAGE = re.compile(r"CRC mismatch|conceal|damaged|rror at MB|rror while decoding")  # some decoders only print it

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame: its time from the clip's first frame in seconds, and upright RGB pixels (H, W, 3)."""

    time_s: float
    pixels: Pixels


@dataclass(slots=True)
class Damage:
    """What is wrong with a clip, after all of its frames were read: a sentence, or "", and its reason."""

    detail: str = ""
    reason: Reason = Reason.UNDECODABLE

    def note(self, detail: str, reason: Reason = Reason.UNDECODABLE) -> None:
        """Keep the first damage."""
        if not self.detail:
            self.detail, self.reason = detail, reason


def read_facts(data: bytes, media_type: str) -> ClipFacts:
    """Return what the packets of a clip show; nothing is decoded but what FFmpeg needs to know the size.

    Raises:
        Unscorable: undecodable, unsupported_format or too_many_frames.
    """
    return _read_animation_facts(data, media_type) if media_type in ANIMATIONS else _Video(data, media_type).facts


def read_frames(data: bytes, facts: ClipFacts, settings: ClipSettings, damage: Damage) -> Iterator[Frame]:
    """Yield the sampled frames in order of time.

    Args:
        data: the clip.
        facts: the result of `read_facts`.
        settings: with the sampling.
        damage: is filled while frames are read.
    """
    if facts.media_type in ANIMATIONS:
        yield from _read_animation(data, facts, settings, damage)
    else:
        yield from _Video(data, facts.media_type).read(settings, damage)


class _Picker:
    """Chooses frames: the first one at each of `times_s` or later, or the first one of each scene."""

    def __init__(self, times_s: Sequence[float], settings: ClipSettings) -> None:
        self._times_s, self._left, self._number = times_s, settings.max_frames, 0
        self._scenes = settings.sampling == "scenes"
        self._last: NDArray[np.int16] | None = None

    @property
    def next_s(self) -> float | None:
        """The time from which a frame is wanted; None if no further frame is."""
        if not self._left or self._number == len(self._times_s):
            return None
        return self._times_s[self._number]

    def pick(self, time_s: float, make_small: Callable[[], Pixels]) -> bool:
        """Return whether a frame is sampled; frames come in order. `make_small` returns it as a small grey picture."""
        if self.next_s is None or not (
            self._begins_scene(make_small()) if self._scenes else time_s >= self.next_s - _EPSILON_S
        ):
            return False
        if not self._scenes:
            self._number = bisect_right(self._times_s, time_s + _EPSILON_S)
        self._left -= 1
        return True

    def _begins_scene(self, grey: Pixels) -> bool:
        small, last = grey.astype(np.int16), self._last
        self._last = small
        return last is None or float(np.abs(small - last).mean()) >= SCENE_CHANGE


class _Video:
    """A video stream in memory.

    Raises:
        Unscorable: undecodable, unsupported_format or too_many_frames.
    """

    def __init__(self, data: bytes, media_type: str) -> None:
        if av is None:
            message = "videos are read with the extra `video` (PyAV), which is not installed"
            raise Unscorable(Reason.UNSUPPORTED_FORMAT, message)
        av.logging.set_level(av.logging.ERROR)
        logging.getLogger("libav").disabled = True  # FFmpeg's messages quote the file; they are read, not printed
        try:
            self._container: InputContainer = av.open(
                io.BytesIO(data),
                mode="r",
                format=CONTAINERS[media_type],
                metadata_errors="replace",
                io_open=_refuse_open,
            )
            streams = [stream for stream in self._container.streams.video if not _is_still(stream)]
            if not streams:
                raise Unscorable(Reason.UNDECODABLE, "the file has no video stream")
            self._stream = streams[0]
            context, self._time_base = self._stream.codec_context, self._stream.time_base or Fraction(1)
            if context.name not in CODECS:
                message = f"the video's codec is {context.name[:32]}; H.264, HEVC, VP8, VP9, AV1, MPEG-4 are read"
                raise Unscorable(Reason.UNSUPPORTED_FORMAT, message)
            self._packets, self._missing = self._read_packets(media_type)
        except (av.FFmpegError, ValueError, OverflowError, LookupError) as error:
            raise Unscorable(Reason.UNDECODABLE, f"the video cannot be read ({type(error).__name__})") from error
        times = [(_find_time(packet) or 0) * self._time_base for packet in self._packets]
        self._start = min(times)
        self._times_s = [float(time - self._start) for time in times]
        last = max(range(len(times)), key=times.__getitem__)
        length = self._packets[last].duration or 0
        end_s = self._times_s[last] + float(length * self._time_base)
        self.facts = ClipFacts(
            media_type=media_type,
            width=context.width,
            height=context.height,
            frames=len(times),
            duration_s=round(end_s, 6),
            streams=len(self._container.streams),
            codec="av1" if context.name == "libdav1d" else context.name,
            hdr={_PQ: "pq", _HLG: "hlg"}.get(context.color_trc),
        )
        if min(context.width, context.height) <= 0:
            raise Unscorable(Reason.UNDECODABLE, "the video states no size")

    def _read_packets(self, media_type: str) -> "tuple[list[Any], str]":
        """Return the packets with a time, in the order of decoding, and what is missing, or ""."""
        packets, missing = [], ""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and _find_time(packet) is not None:
                    packets.append(packet)
                    if packet.is_corrupt:
                        missing = "a packet of the video is incomplete"
                if len(packets) > MAX_PACKETS:
                    raise Unscorable(Reason.TOO_MANY_FRAMES, f"the video has more than {MAX_PACKETS} packets")
        except av.FFmpegError as error:
            missing = f"the video ends early ({type(error).__name__})"
        if not packets:
            raise Unscorable(Reason.UNDECODABLE, "the video has no packets with a time")
        if (
            media_type in {"video/mp4", "video/quicktime"} and len(packets) < self._stream.frames
        ):  # others count otherwise
            missing = missing or f"{len(packets)} of the {self._stream.frames} frames are in the file"
        return packets, missing

    def read(self, settings: ClipSettings, damage: Damage) -> Iterator[Frame]:
        """Yield the sampled frames."""
        if self._missing:
            damage.note(self._missing, Reason.TRUNCATED)
        keys = [at for at, packet in enumerate(self._packets) if packet.is_keyframe]
        key_times_s = [self._times_s[at] for at in keys]
        picker = _Picker(plan_times(self.facts.duration_s, sorted(set(key_times_s)), settings), settings)
        context = self._stream.codec_context
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        if len(self._packets) > SHORT_PACKETS:
            context.skip_frame = "NONKEY" if settings.sampling == "key_frames" else "NONREF"
        sound, at = False, 0
        while at <= len(self._packets) and picker.next_s is not None:
            # Where all frames before the next wanted one can be left out, decoding continues at its key frame.
            key = bisect_right(key_times_s, picker.next_s + _EPSILON_S) - 1
            if settings.sampling != "scenes" and key >= 0 and keys[key] > at:
                context.flush_buffers()
                sound, at = False, keys[key]
            frames = self._decode(at, damage)
            sound, at = sound and frames is not None, at + 1
            for frame in frames or ():
                if frame.is_corrupt:
                    damage.note("a frame of the video is damaged")
                sound = not frame.is_corrupt and (sound or bool(frame.key_frame))
                if (time := _find_time(frame)) is None or not sound:
                    continue
                time_s = float(time * self._time_base - self._start)
                if picker.pick(time_s, partial(_make_small, frame)):
                    yield Frame(round(time_s, 6), _to_upright(frame))

    def _decode(self, at: int, damage: Damage) -> "list[av.VideoFrame] | None":
        """Return the frames that the decoder gives for a packet, or for the end of the stream; None after an error."""
        packet, why = self._packets[at] if at < len(self._packets) else None, ""
        with av.logging.Capture() as messages:
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.error.EOFError:
                frames = []
            except (av.FFmpegError, ValueError) as error:
                why = type(error).__name__
        if why or any(_DAMAGE.search(text) for _, _, text in messages):
            damage.note(f"a frame of the video cannot be decoded ({why or 'the decoder reports damage'})")
            return None
        return frames


def _find_time(item: Any) -> int | None:  # noqa: ANN401 - a packet or a frame
    time: int | None = item.dts if item.pts is None else item.pts
    return time


def _make_small(frame: "av.VideoFrame") -> Pixels:
    return frame.reformat(SCENE_SIDE, SCENE_SIDE, "gray8", threads=1).to_ndarray().astype(np.uint8)


def _refuse_open(*_arguments: object) -> None:
    message = "a file inside the video names another file"
    raise ValueError(message)


def _is_still(stream: "av.video.stream.VideoStream") -> bool:
    """Return whether a stream is a cover, or a still picture beside a sequence in HEIF or AVIF."""
    is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
    return is_cover or (stream.frames == 1 and stream.duration is None)


def _to_upright(frame: "av.VideoFrame") -> Pixels:
    """Return a frame as upright 8-bit RGB."""
    hdr = frame.color_trc in {_PQ, _HLG}
    space = frame.colorspace
    if space == _UNSPECIFIED:
        space = _BT709 if frame.height >= _HD_HEIGHT else _BT601
    source = Colorspace.ITU709 if space == _BT709 else Colorspace.BT2020 if space in _BT2020 else Colorspace.ITU601
    how = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
    rgb = frame.reformat(
        format="rgb48le" if hdr else "rgb24", src_colorspace=source, interpolation=how, dst_color_range=2, threads=1
    )
    samples = rgb.to_ndarray()
    pixels = _map_tones(samples.astype(np.uint16), frame.color_trc) if hdr else samples.astype(np.uint8, copy=False)
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _map_tones(samples: NDArray[np.uint16], transfer: int) -> Pixels:
    """Return BT.2020 samples (H, W, 3) with a PQ or HLG transfer function as 8-bit sRGB; see the module."""
    levels = np.linspace(0, 1, 1 << 12, dtype=np.float32)
    if transfer == _PQ:  # SMPTE ST 2084, in units of the reference white, 203 cd/m2
        power = levels ** np.float32(1 / 78.84375)
        light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** np.float32(1 / 0.1593017578125)
        light *= 10_000 / 203
    else:  # ARIB STD-B67, whose reference white is at 75 % of the signal
        high = (np.exp((levels - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(levels <= _HLG_KNEE, levels**2 / 3, high) / 0.2650
    linear = light.astype(np.float32)[samples >> 4]
    to_srgb = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
    mixed = np.clip(sum(linear[..., i, None] * to_srgb[:, i] for i in range(3)), 0, 1)
    encoded = np.where(mixed <= _SRGB_KNEE, 12.92 * mixed, 1.055 * mixed ** np.float32(1 / 2.4) - 0.055)
    levels_8: Pixels = (encoded * 255 + 0.5).astype(np.uint8)
    return levels_8


def _open_animation(data: bytes, media_type: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=(ANIMATIONS[media_type],))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise SyntaxError, struct.error and others on bad bytes
        message = f"the animation cannot be read ({type(error).__name__})"
        raise Unscorable(Reason.UNDECODABLE, message) from error


def _read_animation_facts(data: bytes, media_type: str) -> ClipFacts:
    """Return the facts of an animation; a GIF's frames are found without decoding them."""
    with _open_animation(data, media_type) as image:
        try:
            frames = int(getattr(image, "n_frames", 1))
        except MemoryError:
            raise
        except Exception as error:
            message = f"the animation's frames cannot be counted ({type(error).__name__})"
            raise Unscorable(Reason.UNDECODABLE, message) from error
        return ClipFacts(media_type, image.width, image.height, frames, 0.0, codec=ANIMATIONS[media_type].lower())


def _read_animation(data: bytes, facts: ClipFacts, settings: ClipSettings, damage: Damage) -> Iterator[Frame]:
    """Yield the sampled frames. Delays are known as frames are decoded: the first pass finds the times."""
    starts = [0.0]
    for _, end_s in _decode_animation(data, facts, damage):
        starts.append(end_s)
    picker = _Picker(plan_times(starts[-1], starts[:-1], settings), settings)
    for number, (image, _) in enumerate(_decode_animation(data, facts, damage)):
        rgb = image.convert("RGBA").convert("RGB")
        if picker.pick(starts[number], partial(_shrink, rgb)):
            yield Frame(round(starts[number], 6), np.asarray(rgb))


def _shrink(rgb: Image.Image) -> Pixels:
    return np.asarray(rgb.convert("L").resize((SCENE_SIDE, SCENE_SIDE)))


def _decode_animation(data: bytes, facts: ClipFacts, damage: Damage) -> Iterator[tuple[Image.Image, float]]:
    """Yield each frame and the time at which it ends; the image is valid until the next one."""
    end_s = 0.0
    with _open_animation(data, facts.media_type) as image:
        for number in range(facts.frames):
            try:
                image.seek(number)
                image.load()
                delay_s = float(image.info.get("duration", 0) or 0) / 1000
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                damage.note(f"frame {number} of the animation cannot be decoded ({type(error).__name__})")
                return
            end_s += delay_s if delay_s > _LEAST_DELAY_S else _DEFAULT_DELAY_S
            yield image, end_s
