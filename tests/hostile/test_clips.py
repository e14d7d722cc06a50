"""Malformed clips: each gets one typed result within the limits, and the clips beside it are not affected."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ingest.clips import ClipSettings, name_clip
from ingest.probe import DEFAULT_LIMITS
from ingest.reasons import Reason, Unscorable
from ingest.sandbox import Sandbox
from scorer.decide import Policy
from scorer.local_scorer import LocalScorer
from scorer.locate import locate_faces
from scorer.messages import ImageSource, ScoreRequest, ScoreResult, Status
from scorer.score import score_batch
from tests.clips import ANIMATIONS, KINDS, make_animation, make_clip

EACH = 17  # malformed clips of each kind: 204 in all
LIMITS = ClipSettings(cpu_s=5.0, timeout_s=30.0)
OUTCOMES = {
    Status.NO_FACE: {Reason.NO_FACE},
    Status.FAILED: {
        Reason.UNDECODABLE,
        Reason.TRUNCATED,
        Reason.TIMED_OUT,
        Reason.OUT_OF_MEMORY,
        Reason.TOO_MANY_PIXELS,
        Reason.TOO_MANY_FRAMES,
        Reason.TOO_MANY_STREAMS,
        Reason.TOO_LONG,
        Reason.BIT_RATE_TOO_HIGH,
        Reason.SIDE_TOO_LONG,
        Reason.SIDE_TOO_SHORT,
        Reason.EMPTY,
    },
    Status.UNSUPPORTED: {Reason.UNSUPPORTED_FORMAT},
}


def make(kind: str) -> bytes:
    """Return a sound clip of 12 frames without a face."""
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8)).resize((160, 120))
    frames = [noise.transform(noise.size, Image.Transform.AFFINE, (1, 0, n, 0, 1, 0)) for n in range(12)]
    return make_animation(frames, kind, [40] * 12) if kind in ANIMATIONS else make_clip(frames, kind)


def spoil(data: bytes, seed: int) -> bytes:
    """Return the clip with flipped bits (in two of three cases) or cut off; early bytes more often than late ones."""
    rng, spoilt = random.Random(seed), bytearray(data)  # noqa: S311 - not a secret
    if seed % 3 == 2:
        return data[: rng.randrange(len(data))]
    for _ in range(rng.choice((1, 4, 40))):
        spoilt[int(len(data) * rng.random() ** rng.choice((1, 3)))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def answer(scorer: LocalScorer, data: bytes, settings: ClipSettings = LIMITS) -> ScoreResult:
    """Return the result of a clip."""
    image = ImageSource.model_construct(uri=None, data=data, sha256=None)
    request = ScoreRequest(request_id="a", content_id="a", image=image)
    located = locate_faces(request, data, scorer.sandbox, DEFAULT_LIMITS, 64, settings)
    (result,) = score_batch([(located, Policy())], scorer.embedder, scorer.bundle.model)
    return result


@pytest.mark.parametrize("kind", [*KINDS, *ANIMATIONS])
def test_each_malformed_clip_gets_one_typed_result(local_scorer: LocalScorer, kind: str) -> None:
    """Bit flips and truncations give a typed result, never an exception; the sound clip is read as before."""
    sound = make(kind)
    before = answer(local_scorer, sound)
    assert (before.status, before.clip is not None) == (Status.NO_FACE, True)
    found: Counter[Reason] = Counter()
    for seed in range(EACH):
        result = answer(local_scorer, spoil(sound, seed))
        if result.status is not Status.SCORED:
            assert set(result.reason_codes) <= OUTCOMES[result.status]
            assert result.detail
        found.update(result.reason_codes)
    assert sum(found.values()) >= EACH
    assert set(found) - {Reason.NO_FACE}, f"no damage was found: {found}"
    after = answer(local_scorer, sound)
    assert (after.result_id, after.frames) == (before.result_id, before.frames)


def test_the_limit_of_cpu_time_ends_a_clip(sandbox: Sandbox) -> None:
    """A clip that takes longer than its limit is `timed_out`, and the next one is read in a new process."""
    frames = [Image.effect_noise((960, 720), 80).convert("RGB") for _ in range(8)] * 12
    clip = make_clip(frames, "mjpeg")
    with pytest.raises(Unscorable) as caught:
        sandbox.sample(clip, "0", str(name_clip(clip)), ClipSettings(frames_per_second=100, cpu_s=0.2))
    assert caught.value.reason is Reason.TIMED_OUT
    facts, sample = sandbox.sample(make("h264"), "0", "video/mp4", LIMITS)
    assert (facts.frames, len(sample.frames)) == (12, 5)


def test_limits_are_checked_on_what_is_there(sandbox: Sandbox) -> None:
    """Duration and frames are counted from packets; each refusal comes before a frame is decoded."""
    clip = make("h264")
    for settings, reason in (
        (ClipSettings(max_duration_s=0.1), Reason.TOO_LONG),
        (ClipSettings(max_decoded_frames=11), Reason.TOO_MANY_FRAMES),
        (ClipSettings(max_pixels=1000), Reason.TOO_MANY_PIXELS),
        (ClipSettings(max_bit_rate=100), Reason.BIT_RATE_TOO_HIGH),
        (ClipSettings(max_streams=0), Reason.TOO_MANY_STREAMS),
    ):
        with pytest.raises(Unscorable) as caught:
            sandbox.sample(clip, "0", "video/mp4", settings)
        assert caught.value.reason is reason
