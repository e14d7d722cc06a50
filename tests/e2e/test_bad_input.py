"""A folder of hostile files through the installed command: one typed answer each, in bounded time."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = Path(sys.executable).parent / "unlensed"
START_UP_CPU_S = 15  # loading OpenVINO and DALI, and compiling two networks, on a slow machine
REFUSAL_CPU_S = 2


def save(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return `picture` encoded."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def many_scans(portrait: Image.Image) -> bytes:
    """Return a progressive JPEG whose last scan is repeated 2,000 times."""
    data = save(portrait.resize((128, 128)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 2000 + b"\xff\xd9"


def claim_size(portrait: Image.Image) -> bytes:
    """Return a small JPEG whose header claims 65,500 x 65,500 pixels."""
    data = bytearray(save(portrait.resize((16, 16)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def animate(portrait: Image.Image, kind: str) -> bytes:
    """Return a two-frame animation of a small face."""
    small = portrait.resize((128, 128))
    return save(small, kind, save_all=True, append_images=[small.rotate(9)])


def turn(portrait: Image.Image, orientation: int) -> bytes:
    """Return a JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(portrait, "JPEG", exif=exif.tobytes())


def deepen(portrait: Image.Image) -> bytes:
    """Return a 16-bit grey PNG."""
    return save(Image.fromarray(np.asarray(portrait.convert("L")).astype(np.uint16) * 257), "PNG")


FILES: dict[str, tuple[Callable[[Image.Image], bytes], str, str | None]] = {
    "empty.jpg": (lambda _: b"", "failed", "empty"),
    "text.jpg": (lambda _: b"hello", "unsupported", "unsupported_format"),
    "truncated.jpg": (lambda image: save(image, "JPEG")[:9000], "failed", "truncated"),
    "truncated.png": (lambda image: save(image, "PNG")[:9000], "failed", "truncated"),
    "truncated.webp": (lambda image: save(image, "WEBP")[:9000], "failed", "truncated"),
    "oversize.jpg": (lambda image: save(image, "JPEG") + bytes(65 << 20), "failed", "too_many_bytes"),
    "bomb.jpg": (claim_size, "failed", "too_many_pixels"),
    "scans.jpg": (many_scans, "failed", "too_many_scans"),
    "animated.gif": (lambda image: animate(image, "GIF"), "failed", "face_too_small"),
    "animated.webp": (lambda image: animate(image, "WEBP"), "failed", "face_too_small"),
    "animated.png": (lambda image: animate(image, "PNG"), "failed", "face_too_small"),
    "deep.png": (deepen, "scored", None),
    "cmyk.jpg": (lambda image: save(image.convert("CMYK"), "JPEG"), "scored", None),
    **{f"turned{number}.jpg": (lambda image, n=number: turn(image, n), "scored", None) for number in (1, 2)},  # type: ignore[misc]
}


@pytest.fixture
def hostile(tmp_path: Path, portrait: bytes) -> Path:
    """A folder with one file of each kind, and a name that leads nowhere."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    picture = Image.open(io.BytesIO(portrait)).convert("RGB")
    for name, (build, _, _) in FILES.items():
        (folder / name).write_bytes(build(picture))
    (folder / "vanished.jpg").symlink_to("nowhere.jpg")
    return folder


@pytest.mark.slow
def test_each_bad_file_gets_its_own_answer(hostile: Path, root: Path) -> None:
    """Every file is answered with the status and reason it deserves, without a traceback or a hang."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [COMMAND, "score", hostile, "--json", "--bundle", root / "model_repository"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = {Path(line["content_id"]).name: line for line in map(json.loads, run.stdout.splitlines())}
    assert results.keys() == FILES.keys() | {"vanished.jpg"}, run.stderr
    answers = {name: (line["status"], (line["reason_codes"] or [None])[0]) for name, line in results.items()}
    expected = {name: (status, reason) for name, (_, status, reason) in FILES.items()}
    assert answers == expected | {"vanished.jpg": ("failed", "unreadable")}
    for line in results.values():
        (decisions,) = {face["decision"] for face in line["faces"]} or {None}
        assert line["decision"] == decisions
        assert line["status"] == "scored" or decisions in {None, "review"}
    assert "Traceback" not in run.stderr
    assert run.returncode == 3
    refusals = sum(status != "scored" for status, _ in answers.values())
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s < START_UP_CPU_S + REFUSAL_CPU_S * refusals
