"""The other images of a run change no result: images are added, left out and reordered."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scorer.local_scorer import LocalScorer
from scorer.messages import Decision, ImageSource, RequestedFace, ScoreRequest, Status

Make = Callable[[Image.Image], bytes]
BOX = (170.0, 60.0, 110.0, 150.0)


def encode(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return `picture` as encoded bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turn(picture: Image.Image) -> bytes:
    """Return the picture stored with a quarter turn, and the orientation that reverts it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture.rotate(90), "WEBP", exif=exif, quality=90)


def double(picture: Image.Image) -> bytes:
    """Return two faces in one picture."""
    both = Image.new("RGB", (2 * picture.width, picture.height))
    both.paste(picture, (0, 0))
    both.paste(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (picture.width, 0))
    return encode(both, progressive=True)


def interrupt(picture: Image.Image) -> bytes:
    """Return a JPEG with an empty segment in the middle of its scan."""
    data = encode(picture)
    return data[: len(data) // 2] + b"\xff\xe1\0\x02" + data[len(data) // 2 :]


def repeat_scan(picture: Image.Image) -> bytes:
    """Return a progressive JPEG that repeats its last scan fifty times."""
    data = encode(picture, progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 50 + data[-2:]


GOOD: dict[str, Make] = {
    "PNG": lambda picture: encode(picture, "PNG"),
    "large JPEG": lambda picture: encode(picture.resize((1100, 1100)), quality=90),
    "small JPEG": lambda picture: encode(picture.resize((420, 420)), restart_marker_rows=1),
    "turned WebP": turn,
    "two faces": double,
    "without its end marker": lambda picture: encode(picture, quality=85)[:-2],
}
BAD: dict[str, Make] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not an image" * 40,
    "cut in half": lambda picture: encode(picture)[:15_000],
    "a cut PNG": lambda picture: encode(picture, "PNG")[:100_000],
    "a cut WebP": lambda picture: encode(picture, "WEBP")[:5000],
    "lost data": lambda picture: encode(picture)[:3000] + bytes(2000) + encode(picture)[5000:],
    "noise": lambda _: encode(Image.fromarray(np.random.default_rng(5).integers(0, 255, (300, 300, 3), np.uint8))),
    "interrupted": interrupt,
    "repeated scan": repeat_scan,
    "a small face": lambda picture: encode(picture.resize((150, 150))),
    "a bomb": lambda _: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\xff" * 17 + bytes(40),
}


@pytest.fixture(scope="module")
def requests(portrait: bytes) -> list[ScoreRequest]:
    """Every image twice: without face boxes, and with one."""
    picture = Image.open(io.BytesIO(portrait)).convert("RGB")
    images = {name: make(picture) for name, make in (GOOD | BAD).items()}
    given = (RequestedFace(face_id="given", box=BOX),)
    return [
        ScoreRequest(request_id=name + suffix, content_id=name, image=ImageSource(data=data), faces=faces)
        for name, data in images.items()
        for suffix, faces in (("", None), (", box given", given))
    ]


@pytest.fixture(scope="module")
def alone(requests: list[ScoreRequest], local_scorer: LocalScorer) -> dict[str, dict[str, Any]]:
    """The result of each image as the only one of a run."""
    results = [result for request in requests for result in answer(local_scorer, [request])]
    scored = {each["request_id"] for each in results if each["status"] is Status.SCORED}
    assert scored >= GOOD.keys()
    assert len(BAD.keys() - scored) > len(BAD) / 2
    for each in results:
        if each["status"] is not Status.SCORED:
            assert each["reason_codes"]
            assert each["decision"] is (Decision.REVIEW if each["faces"] else None)
    return {each["request_id"]: each for each in results}


def answer(scorer: LocalScorer, requests: list[ScoreRequest]) -> list[dict[str, Any]]:
    """Return the results of a run without their times."""
    return [result.model_dump(exclude={"timing_ms", "scored_at"}) for result in scorer.score(requests)]


@pytest.mark.slow
@settings(max_examples=25)
@given(data=st.data())
def test_every_image_gets_the_result_that_it_gets_alone(
    local_scorer: LocalScorer, requests: list[ScoreRequest], alone: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    """Boxes, confidences, log-likelihoods, reasons and ids are equal, bit for bit, among any others and in any order.

    The images are decoded in the sandbox and scored in batches of up to four.
    """
    run = data.draw(st.lists(st.sampled_from(requests), min_size=1, max_size=12), label="run")
    assert answer(local_scorer, run) == [alone[request.request_id] for request in run]
