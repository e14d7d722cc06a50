"""A worker's memory holds every picture that its own limits admit."""

import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.deploy.chart import CHART, Refused, find, render
from tests.deploy.tools import ROOT

SIDE = 4096  # 16.8 megapixels: large beside what moves by itself, and done in a second or two
# Runs on one file and prints how far the process grew, in bytes.
PROGRAM = """
import sys
from pathlib import Path
from ingest.dali import FaceCropper
from ingest.detect import load_detector
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.spec import Window
from scorer.bundle import read_bundle

def peak():
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10

data, bundle = Path(sys.argv[2]).read_bytes(), read_bundle(Path("model_repository"))
info = probe_image(data)
if sys.argv[1] == "cut":
    cropper = FaceCropper(bundle.manifest.preprocess, 1, 1)
    before = peak()
    (crop,) = cropper.crop([EncodedFace(data, info, Window(0, 0, info.width, info.height))])
    assert not isinstance(crop, Unscorable)
else:
    detector = load_detector(bundle.folder, bundle.manifest.detector, 1)
    before = peak()
    detector.detect(data, info)
print(peak() - before)
"""


def write_webp(path: Path) -> None:
    """Write a WebP of SIDE x SIDE pixels: the kind of picture in which it is dearest to find faces."""
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(path, "WEBP", method=0)


def write_deep_png(path: Path) -> None:
    """Write a 16-bit RGB PNG of SIDE x SIDE pixels and few bytes: the kind of picture that is dearest to cut."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = SIDE * 6
    packer = zlib.compressobj(1)
    packed = [packer.compress(b"\0" + bytes(i % 251 for i in range(row)))]
    packed += [packer.compress(b"\2" + bytes(row)) for _ in range(SIDE - 1)]  # as the row above
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", b"".join([*packed, packer.flush()]))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))


def read_constant(name: str) -> float:
    """Return a number of _memory.tpl."""
    return float(re.search(rf'"unlensed.{name}" -}}}}([0-9.]+)', (CHART / "templates/_memory.tpl").read_text())[1])


@pytest.mark.parametrize("work", ["cut", "find"])
@pytest.mark.parametrize("write", [write_deep_png, write_webp])
def test_decoders_take_no_more_than_the_rule_says(tmp_path: Path, work: str, write: Callable[[Path], None]) -> None:
    """The dearest kinds of picture grow a process that decodes them by at most the bytes a pixel of the rule."""
    write(tmp_path / "picture")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, work, tmp_path / "picture"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(run.stdout) / SIDE**2
    assert 3 < grown < read_constant("decodedPixelBytes")


def memory(scenario: str, *settings: str) -> str:
    """Return the limit of a worker's memory."""
    (worker,) = find(render(scenario, *settings), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return str(worker["resources"]["limits"]["memory"])


@pytest.mark.parametrize(
    ("scenario", "settings", "limit"),
    [
        ("scram", [], "5794Mi"),  # two threads, two processes that decode
        ("scram", ["settings.stream.detector_processes=4"], "6050Mi"),
        ("scram", ["settings.limits.max_pixels=60000000"], "2590Mi"),
        ("scram", ["settings.limits.max_bytes=16777216"], "5650Mi"),
        ("scram", ["gpu.count=1"], "7714Mi"),  # one process that finds faces, CUDA's memory on the host
        ("gpu-remote", [], "5666Mi"),  # the engine is elsewhere
    ],
)
def test_an_empty_limit_is_computed(scenario: str, settings: list[str], limit: str) -> None:
    """The limit follows the pixels that are admitted and the decoders that may hold them at once."""
    assert memory(scenario, *settings) == limit


@pytest.mark.parametrize("limit", ["5794Mi", "5.7Gi", "7Gi", "6100M"])
def test_a_limit_that_is_large_enough_is_kept(limit: str) -> None:
    """Whatever its unit, a stated limit is compared as Kubernetes reads it."""
    assert memory("scram", f'resources.limits.memory="{limit}"') == limit


@pytest.mark.parametrize(
    ("scenario", "setting", "says"),
    [
        (
            "scram",
            'resources.limits.memory="1Gi"',
            r"pictures that .*max_pixels \(200000000\) admits may take 5794 MiB",
        ),
        ("scram", 'resources.limits.memory="5793Mi"', "raise it, leave it empty, or lower settings.limits.max_pixels"),
        ("scram", 'resources.requests.memory="7Gi"', r"resources.requests.memory is 7Gi, more than the limit"),
        ("rescan", 'scan.resources.limits.memory="2Gi"', "scan.resources.limits.memory is 2Gi"),
    ],
)
def test_too_little_memory_is_refused(scenario: str, setting: str, says: str) -> None:
    """A limit under which the service's own limits admit a picture that kills it never becomes a manifest."""
    with pytest.raises(Refused, match=says):
        render(scenario, setting)


def test_a_scan_has_a_process_for_each_core() -> None:
    """The limit of a scan's process grows with its cores."""

    def scan(cpu: str) -> str:
        documents = render("rescan", f'scan.resources.requests.cpu="{cpu}"')
        (job,) = (each for each in documents if each["metadata"]["name"].startswith("unlensed-scan-"))
        return str(job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])

    assert [scan("1"), scan("1500m"), scan("2")] == ["5666Mi", "5794Mi", "5794Mi"]
