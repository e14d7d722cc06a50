"""Makes clips in code: frames in a container, by FFmpeg's own encoders or Pillow."""

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

# Encoder, container, pixel format, options: every codec that is read and that the wheel can write.
KINDS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "h264": ("libx264", "mp4", "yuv420p", {}),
    "hevc": ("libx265", "mp4", "yuv420p", {"x265-params": "log-level=none:pools=1", "preset": "ultrafast"}),
    "vp9": ("libvpx-vp9", "webm", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "av1": ("libsvtav1", "mp4", "yuv420p", {"preset": "12", "svtav1-params": "lp=1"}),
    "vp8": ("libvpx", "webm", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": ("mpeg4", "avi", "yuv420p", {}),
    "mjpeg": ("mjpeg", "mov", "yuvj420p", {}),
    "ffv1": ("ffv1", "matroska", "bgr0", {"slicecrc": "1", "level": "3"}),
    "avif": ("libsvtav1", "avif", "yuv420p", {"preset": "12", "svtav1-params": "lp=1"}),
    "h264_ts": ("libx264", "mpegts", "yuv420p", {}),
}
ANIMATIONS = ("GIF", "PNG", "WEBP")


def make_clip(
    frames: Sequence[Image.Image],
    kind: str = "h264",
    *,
    fps: int = 25,
    times_ms: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
    rotation: int | None = None,
    transfer: int | None = None,
    pixels: str | None = None,
    path: Path | None = None,
) -> bytes:
    """Return `frames` as a video of `kind`; `rotation` is stated counter-clockwise in degrees, `times_ms` per frame.

    With a `path`, it is written there first, so that an MP4 begins with its index.
    """
    encoder, container, usual_pixels, usual = KINDS[kind]
    written = io.BytesIO()
    first = {"movflags": "faststart"} if path else {}
    with av.open(path or written, "w", format=container, options=first) as output:
        stream = output.add_stream(encoder, rate=fps, options=usual | dict(options or {}))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = pixels or usual_pixels
        if container != "avi":
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if transfer is not None:
            stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, 9
            stream.codec_context.colorspace = 9
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = number if container == "avi" else times_ms[number] if times_ms else number * 1000 // fps
            frame.time_base = Fraction(1, fps) if container == "avi" else Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path.read_bytes() if path else written.getvalue()


def make_animation(frames: Sequence[Image.Image], kind: str, durations_ms: Sequence[int]) -> bytes:
    """Return `frames` as an animation that Pillow writes; a WebP is lossless."""
    written = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(
        written, kind, save_all=True, append_images=frames[1:], duration=list(durations_ms), loop=0, **options
    )
    return written.getvalue()
