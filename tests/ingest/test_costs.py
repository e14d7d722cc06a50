"""The memory and CPU time that decoding may take, and its reservation."""

import io
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.costs import CPU_S, JOB_BYTES, compute_cpu_limit_s, estimate_memory
from ingest.decode_batches import FaceGroup
from ingest.memory import MemoryBudget
from ingest.probe import EncodedFace, ImageInfo, probe_image
from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.bundle import Bundle


def encode(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return `picture` as encoded bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@given(st.lists(st.integers(0, 10), min_size=1, max_size=12), st.integers(10, 20))
def test_memory_is_never_reserved_twice(sizes: list[int], total: int) -> None:
    """For calls in any order, the reserved memory stays within the budget, and each call gets its memory."""
    budget, lock, reserved, most = MemoryBudget(total), threading.Lock(), [0], [0]

    def work(size: int) -> None:
        with budget.reserve(size):
            with lock:
                reserved[0] += size
                most[0] = max(most[0], reserved[0])
            time.sleep(0)
            with lock:
                reserved[0] -= size

    with ThreadPoolExecutor(6) as callers:
        list(callers.map(work, sizes))
    assert most[0] <= total


def test_the_estimate_depends_on_the_format() -> None:
    """A JPEG of one scan is decoded by lines; one of several scans needs its coefficients, WebP several copies."""
    picture = Image.new("RGB", (2000, 1000))
    files = encode(picture), encode(picture, progressive=True), encode(picture, "WEBP")
    groups = [FaceGroup(data, probe_image(data)) for data in files]
    baseline, progressive, webp = (estimate_memory("find", [group]) for group in groups)
    assert compute_cpu_limit_s("find", groups) == CPU_S
    assert baseline >= JOB_BYTES + 5 * 2_000_000  # four are for codes appended to measure damage
    assert progressive - baseline >= 2.9 * 2_000_000
    assert webp - baseline >= 16 * 2_000_000


def test_heic_has_more_time_to_be_cut_than_to_be_found() -> None:
    """12 megapixels of HEIC have 2 s to find faces and 3.2 s to cut them, where other formats have 1.8 s."""
    stated = [FaceGroup(b"", ImageInfo(kind, 4032, 3024, 1, "")) for kind in ("image/heic", "image/avif")]
    limits = [compute_cpu_limit_s(kind, [group]) for group in stated for kind in ("find", "cut")]
    assert limits == pytest.approx([1.95, 3.17, 1.83, 1.83], abs=0.005)


UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[4]), int(sys.argv[4])))
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import read_bundle
bundle = read_bundle(Path(sys.argv[1]))
sandbox = Sandbox(bundle.folder, bundle.manifest.detector, bundle.manifest.preprocess, 1)
for file in sys.argv[2:4]:
    data = Path(file).read_bytes()
    try:
        print(len(sandbox.detect(data, probe_image(data))))
    except Unscorable as failure:
        print(failure.reason)
"""


@pytest.mark.slow
def test_works_under_a_limit_of_address_space(starter: Bundle, portrait: bytes, tmp_path: Path) -> None:
    """Under `ulimit -v` an image that fits is decoded, and one that does not fit is out_of_memory."""
    large = encode(Image.new("RGB", (10_000, 10_000)), "WEBP", lossless=True, method=0, quality=0)
    files = [tmp_path / "small.png", tmp_path / "large.webp"]
    for file, data in zip(files, (portrait, large), strict=True):
        file.write_bytes(data)
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(starter.folder), *map(str, files), str(3 << 30)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["1", "out_of_memory"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["base", "progressive", "png", "palette", "grey16", "webp", "lossless"])
def test_good_pictures_fit_their_estimate(sandbox: Sandbox, kind: str) -> None:
    """A photograph of 12 megapixels is decoded within the memory that is estimated for it, in each format."""
    noise = np.random.default_rng(2).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC)
    grey = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    data = {
        "base": lambda: encode(picture, quality=90),
        "progressive": lambda: encode(picture, progressive=True, subsampling=0),
        "png": lambda: encode(picture.convert("RGBA"), "PNG", compress_level=1),
        "palette": lambda: encode(picture.quantize(64), "PNG", compress_level=1),
        "grey16": lambda: encode(grey, "PNG", compress_level=1),
        "webp": lambda: encode(picture, "WEBP", method=0),
        "lossless": lambda: encode(picture, "WEBP", lossless=True, method=0, quality=0),
    }[kind]()
    info = probe_image(data)
    assert sandbox.detect(data, info) == []
    assert sandbox.show(data, info, Window(0, 0, 4000, 3000), 1600).shape == (1200, 1600, 3)
    ((_, crop),) = sandbox.crop([EncodedFace(data, info, Window(0, 0, 3000, 3000))])
    assert not isinstance(crop, Unscorable)


def test_memory_of_a_large_image_is_freed(starter: Bundle, portrait: bytes) -> None:
    """A process that cut 36 megapixels has at most 64 MiB more than before, since no budget counts an idle process."""
    small, large = (
        encode(Image.open(io.BytesIO(portrait)).convert("RGB").resize((side, side), Image.Resampling.NEAREST))
        for side in (200, 6000)
    )
    others, sizes = set(psutil.Process().children()), []
    with closing(Sandbox(starter.folder, None, starter.manifest.preprocess, 1)) as sandbox:
        for data in (small, large, small):
            info = probe_image(data)
            ((_, crop),) = sandbox.crop([EncodedFace(data, info, Window(0, 0, info.width, info.height))])
            assert not isinstance(crop, Unscorable)
            (process,) = set(psutil.Process().children()) - others
            taken = process.memory_info()
            sizes.append(taken.rss - taken.shared)
    assert sizes[2] - sizes[0] < 64 << 20
