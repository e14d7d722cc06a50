"""Clips become sampled upright frames with their times, whatever the codec, and damage costs only what it touches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.clips import (
    DEFAULT_CLIP_SETTINGS,
    MAX_FRAMES,
    MIN_FRAMES,
    ClipFacts,
    ClipSettings,
    check_facts,
    name_animation,
    name_clip,
    plan_times,
)
from ingest.probe import probe_image
from ingest.reasons import Reason, Unscorable
from ingest.video import Damage, Frame, read_facts, read_frames
from tests.clips import ANIMATIONS, KINDS, make_animation, make_clip

SIZE = (64, 48)


def draw(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a smooth picture whose red tells `number` (in steps of 4) and whose green grows to the right."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 4 * number % 256
    pixels[..., 1] = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(pixels)


def read(data: bytes, settings: ClipSettings = DEFAULT_CLIP_SETTINGS) -> tuple[ClipFacts, list[Frame], Damage]:
    """Return a clip's facts, its sampled frames, and its damage."""
    facts, damage = read_facts(data, name_clip(data) or name_animation(data)), Damage()
    return facts, list(read_frames(data, facts, settings, damage)), damage


@pytest.mark.parametrize("kind", KINDS)
def test_each_codec_is_read(kind: str) -> None:
    """A three-second clip of each codec gives five frames in order, spread over its duration, and no damage."""
    facts, frames, damage = read(make_clip([draw(n // 4) for n in range(75)], kind))
    assert (facts.width, facts.height, facts.frames) == (*SIZE, 75)
    assert facts.duration_s == pytest.approx(3, abs=0.1)
    assert not damage.detail
    times = [frame.time_s for frame in frames]
    assert times[0] == 0
    assert len(times) == MIN_FRAMES
    assert times == sorted(times)
    assert max(np.diff(times)) < 1.3
    for frame in frames:
        expected = np.asarray(draw(round(frame.time_s * 25) // 4)).astype(float)
        assert frame.pixels.shape == (SIZE[1], SIZE[0], 3)
        assert abs(frame.pixels.astype(float) - expected).mean() < 8


def test_a_sequence_in_heif_is_a_video() -> None:
    """A file of HEVC whose brand is that of an image sequence is refused as an image, and its frames are read."""
    clip = make_clip([draw(n) for n in range(10)], "hevc")
    sequence = clip.replace(b"ftypisom", b"ftyphevc", 1)
    with pytest.raises(Unscorable) as refusal:
        probe_image(sequence)
    assert refusal.value.reason is Reason.ANIMATED
    assert [frame.time_s for frame in read(sequence)[1]] == [frame.time_s for frame in read(clip)[1]]
    assert name_animation(b"\xff\x0a") == ""  # JPEG XL


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_each_animation_is_read(kind: str) -> None:
    """An animation gives exactly its frames, at the times that its delays state; a delay of 10 ms counts as 100."""
    pictures = [draw(n) for n in range(6)]
    facts, frames, damage = read(make_animation(pictures, kind, [100, 300, 10, 100, 100, 100]))
    assert (facts.frames, damage.detail) == (6, "")
    assert [frame.time_s for frame in frames] == [0, 0.4, 0.5, 0.7]
    for frame, number in zip(frames, (0, 2, 3, 5), strict=True):
        expected = np.asarray(pictures[number]).astype(int)
        assert abs(frame.pixels.astype(int) - expected).max() <= (16 if kind == "GIF" else 0)


def test_lossless_frames_are_exact() -> None:
    """A frame of a lossless RGB clip has exactly the pixels of the picture."""
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(5)]
    _, frames, _ = read(make_clip(pictures, "ffv1"))
    assert len(frames) == 5
    assert all(np.array_equal(frame.pixels, picture) for frame, picture in zip(frames, pictures, strict=True))


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_frames_are_upright(rotation: int, turns: int) -> None:
    """The rotation that the container states is applied."""
    picture = draw(5)
    _, frames, _ = read(make_clip([picture] * 5, rotation=rotation))
    expected = np.rot90(np.asarray(picture), turns).astype(float)
    assert frames[0].pixels.shape == expected.shape
    assert abs(frames[0].pixels.astype(float) - expected).mean() < 8


def test_times_count_where_the_frame_rate_varies() -> None:
    """With one frame a second, a burst of frames gives one frame, and a long hold none."""
    times = [0, 20, 40, 60, 80, 4000, 4020, 6000, 9000, 9500]
    _, frames, _ = read(make_clip([draw(n) for n in range(10)], times_ms=times, options={"g": "100"}))
    assert [frame.time_s for frame in frames] == [0, 4, 6, 9]


def test_a_clip_of_one_second_gives_several_frames() -> None:
    """A short clip is sampled more often than once a second, and a single frame is a clip, too."""
    _, frames, _ = read(make_clip([draw(n) for n in range(25)]))
    assert len(frames) == MIN_FRAMES
    _, frames, _ = read(make_clip([draw(3)]))
    assert [frame.time_s for frame in frames] == [0]


def test_sampling_by_key_frames_and_scenes() -> None:
    """Key frames are exactly those; a scene gives one frame."""
    pictures = [draw(10)] * 30 + [draw(60)] * 30 + [draw(10)] * 30
    clip = make_clip(pictures, options={"g": "20", "sc_threshold": "0"})
    _, frames, _ = read(clip, ClipSettings(sampling="key_frames"))
    assert [frame.time_s for frame in frames] == [0, 0.8, 1.6, 2.4, 3.2]
    _, frames, _ = read(clip, ClipSettings(sampling="scenes"))
    assert len(frames) == 3
    assert [frame.time_s for frame in frames] == pytest.approx([0, 1.2, 2.4], abs=0.16)
    _, frames, _ = read(clip, ClipSettings(frames_per_second=10, max_frames=7))
    assert len(frames) == 7
    assert frames[-1].time_s > 2.9


@pytest.mark.parametrize(("transfer", "name"), [(16, "pq"), (18, "hlg")])
def test_hdr_is_mapped_and_marked(transfer: int, name: str) -> None:
    """The reference white of PQ (58 % of the signal) and HLG (75 %) becomes white, black stays black."""
    white = {"pq": 0.5807, "hlg": 0.75}[name]
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:] = round(white * 255)
    clip = make_clip([Image.fromarray(pixels)] * 3, "hevc", transfer=transfer, pixels="yuv420p10le")
    facts, frames, _ = read(clip)
    assert facts.hdr == name
    assert frames[0].pixels[:, 40:].mean() > 244
    assert frames[0].pixels[:, :24].mean() < 8


def test_frames_before_damage_are_kept() -> None:
    """Bytes that are wrong in the last third of a lossless clip cost frames there, and no other."""
    rng = np.random.default_rng(2)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(30)]
    clip = bytearray(make_clip(pictures, "ffv1", options={"g": "1"}))
    clip[len(clip) * 4 // 5] ^= 0xFF
    _, frames, damage = read(bytes(clip), ClipSettings(frames_per_second=25))
    assert damage.reason is Reason.UNDECODABLE
    assert len(frames) == 29
    assert all(np.array_equal(frame.pixels, pictures[round(frame.time_s * 25)]) for frame in frames)


def test_a_truncated_clip_is_marked(tmp_path: Path) -> None:
    """The frames before the end of a truncated file are read, and the damage says that others are missing."""
    clip = make_clip([draw(n) for n in range(50)], options={"g": "5"}, path=tmp_path / "clip.mp4")
    _, frames, damage = read(clip[: len(clip) * 2 // 3])
    assert 0 < len(frames) < MIN_FRAMES
    assert damage.reason is Reason.TRUNCATED
    assert damage.detail


def test_other_bytes_are_refused() -> None:
    """Text after a video's signature, and a codec that is not listed, are refused with a reason."""
    for data in (b"\0\0\0\x18ftypisom" + b"text" * 100, b"\x1aE\xdf\xa3" + bytes(100), b"GIF89a" + bytes(20)):
        with pytest.raises(Unscorable) as caught:
            read(data)
        assert caught.value.reason is Reason.UNDECODABLE


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"streams": 17}, Reason.TOO_MANY_STREAMS),
        ({"width": 9000}, Reason.TOO_MANY_PIXELS),
        ({"frames": 20_001}, Reason.TOO_MANY_FRAMES),
        ({"frames": 6000, "height": 8000}, Reason.TOO_MANY_PIXELS),
        ({"duration_s": 300.1}, Reason.TOO_LONG),
        ({"duration_s": 0.5}, Reason.BIT_RATE_TOO_HIGH),
    ],
)
def test_limits_have_reasons(facts: dict[str, int], reason: Reason) -> None:
    """A clip beyond a limit is refused with the name of its setting; one at the limits is not."""
    limits = ClipSettings(max_bit_rate=8_000)
    usual = {"media_type": "video/mp4", "width": 1000, "height": 5000, "frames": 100, "duration_s": 300}
    check_facts(ClipFacts(**usual), 1500, limits)  # type: ignore[arg-type]
    with pytest.raises(Unscorable, match="setting video") as caught:
        check_facts(ClipFacts(**(usual | facts)), 1500, limits)  # type: ignore[arg-type]
    assert caught.value.reason is reason


@given(
    st.floats(0, 400, allow_subnormal=False),
    st.lists(st.floats(0, 400), max_size=40, unique=True).map(sorted),
    st.sampled_from([0.1, 1.0, 2.0, 30.0]),
    st.integers(1, MAX_FRAMES),
)
def test_slots_cover_the_clip(duration: float, keys: list[float], rate: float, most: int) -> None:
    """Times ascend from the start, are at most `max_frames`, and no gap is longer than two slots."""
    settings = ClipSettings(frames_per_second=rate, max_frames=most)
    times = plan_times(duration, keys, settings)
    assert times[0] == 0
    assert len(times) <= most
    assert times == sorted(set(times))
    slot = max(min(1 / rate, duration / MIN_FRAMES), duration / most)
    assert all(later - earlier <= 2 * slot + 1e-9 for earlier, later in zip(times, [*times[1:], duration], strict=True))


def test_a_file_inside_a_clip_is_not_opened() -> None:
    """A playlist that names another file is no clip: only listed containers are opened."""
    assert name_clip(b"#EXTM3U\nfile:///etc/passwd\n") is None
    assert name_clip(b"ffconcat version 1.0\nfile '/etc/passwd'\n") is None
