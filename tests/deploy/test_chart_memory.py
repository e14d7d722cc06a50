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

from ingest import costs, memory
from ingest.costs import JOB_BYTES, estimate_memory
from ingest.decode_batches import FaceGroup
from ingest.memory import PROCESS_BYTES, SERVICE_BYTES, find_decoding_memory
from ingest.probe import PIXEL_BYTES, ImageInfo
from ingest.spec import Window
from tests.deploy.chart import CHART, Refused, find, render
from tests.deploy.tools import ROOT

SIDE = 4096  # 16.8 megapixels: large beside what moves by itself, and done in a second or two
# Runs on one file and prints how far the process grew, in bytes.
PROGRAM = """
import sys
from pathlib import Path
from ingest import decode_batches
from ingest.costs import JOB_BYTES, estimate_memory
from ingest.dali import FaceCropper
from ingest.detect import load_detector
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.spec import Window
from scorer.bundle.bundle import read_bundle

def peak():
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10

data, bundle = Path(sys.argv[2]).read_bytes(), read_bundle(Path("model_repository"))
info = probe_image(data)
if sys.argv[1] == "cut whole":
    decode_batches._MAX_DECODED_BYTES = 0  # as if DALI refused it for its size
window = Window(0, 0, info.width, info.height)
if sys.argv[1] != "find":
    cropper = FaceCropper(bundle.manifest.preprocess, 1, 1)
    before = peak()
    (crop,) = cropper.crop([EncodedFace(data, info, window)])
    assert not isinstance(crop, Unscorable)
else:
    detector = load_detector(bundle.folder, bundle.manifest.detector, 1)
    before = peak()
    detector.detect(data, info)
grown, group = peak() - before, decode_batches.FaceGroup(data, info, {0: window})
print(grown, estimate_memory(sys.argv[1].split()[0], [group]))
"""


def write_webp(path: Path) -> None:
    """Write a WebP, in which faces are dearest to find."""
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(path, "WEBP", method=0)


def write_deep_png(path: Path) -> None:
    """Write a 16-bit RGB PNG of few bytes, which is dearest to cut."""

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


@pytest.mark.parametrize("work", ["cut", "cut whole", "find"])
@pytest.mark.parametrize("write", [write_deep_png, write_webp])
def test_decoders_take_no_more_than_the_rule_says(tmp_path: Path, work: str, write: Callable[[Path], None]) -> None:
    """The dearest kinds of picture grow a process by no more than is estimated, and than the rule's bytes a pixel."""
    write(tmp_path / "picture")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, work, tmp_path / "picture"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, estimated = map(int, run.stdout.split())
    assert 3 < grown / SIDE**2 < read_constant("decodedPixelBytes")
    assert grown < estimated


def dearest_pixel(max_pixels: int) -> float:
    """Return the most that is estimated for an admitted picture, a pixel of `max_pixels`."""
    most = 0
    for media_type in ("image/jpeg", "image/png", "image/webp"):
        # WebP is 8 bits deep and PNG has at most four channels of 16; four components of a JPEG have 11.
        for pixel_bytes in {"image/webp": [3], "image/png": range(3, 9), "image/jpeg": range(3, 12)}[media_type]:
            for pixels in (max_pixels * PIXEL_BYTES // max(pixel_bytes, PIXEL_BYTES), min(max_pixels, 178_900_000)):
                info = ImageInfo(media_type, pixels // 1000, 1000, 1, "", pixel_bytes=pixel_bytes)
                face = FaceGroup(b"", info, {0: Window(0, 0, info.width, info.height)})
                admitted = pixels * max(pixel_bytes, PIXEL_BYTES) <= max_pixels * PIXEL_BYTES
                jobs = [estimate_memory(kind, [face]) for kind in ("find", "cut") if admitted]
                most = max([most, *jobs])
    return (most - JOB_BYTES) / max_pixels


@pytest.mark.parametrize("max_pixels", [200_000_000, 150_000_000, 60_000_000])
def test_the_rule_is_that_of_the_decoders(max_pixels: int) -> None:
    """The chart allows what the service estimates."""
    assert dearest_pixel(max_pixels) == pytest.approx(read_constant("decodedPixelBytes"), abs=0.01)
    assert read_constant("fileCopies") == costs._FILE_COPIES  # noqa: SLF001 - the other half of the rule
    assert read_constant("processMiB") * 2**20 == PROCESS_BYTES
    assert read_constant("serviceMiB") * 2**20 == SERVICE_BYTES + JOB_BYTES


@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        ([], 2),
        (["settings.limits.max_pixels=60000000"], 2),
        (["settings.stream.detector_processes=4", "settings.limits.max_bytes=16777216"], 4),
        (["settings.stream.max_in_flight_bytes=1048576"], 2),
    ],
)
def test_a_worker_admits_the_dearest_picture(
    settings: list[str], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computed limit leaves decoding room for any admitted picture."""
    values = dict(setting.split("=") for setting in settings)
    pixels = int(values.get("settings.limits.max_pixels", 200_000_000))
    file = b"\0" * int(values.get("settings.limits.max_bytes", 1 << 26))
    limit = int(worker_memory("scram", *settings).removesuffix("Mi")) << 20
    monkeypatch.setattr(memory, "_read_container_limit", lambda _machine: limit)
    monkeypatch.setattr("ingest.memory.os.sysconf", lambda _name: 1 << 20)  # a machine that is large enough
    dearest = FaceGroup(file, ImageInfo("image/webp", pixels // 1000, 1000, 1, ""))
    assert estimate_memory("find", [dearest]) <= find_decoding_memory(processes)


def worker_memory(scenario: str, *settings: str) -> str:
    """Return the limit of the memory of a worker, or of the HTTP service's pod."""
    kind, name = ("Deployment", "unlensed-api") if scenario == "api" else ("StatefulSet", "unlensed")
    (worker,) = find(render(scenario, *settings), kind, name)["spec"]["template"]["spec"]["containers"]
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
        ("api", [], "6050Mi"),  # as a worker, and decoded copies of what is in flight
        ("api", ["settings.api.cache_bytes=1048576"], "6051Mi"),
        ("api", ['api.resources.requests.cpu="4"', "settings.stream.max_in_flight_bytes=1"], "6306Mi"),
    ],
)
def test_an_empty_limit_is_computed(scenario: str, settings: list[str], limit: str) -> None:
    """The limit follows the admitted pixels and the decoders."""
    assert worker_memory(scenario, *settings) == limit


@pytest.mark.parametrize("limit", ["5794Mi", "5.7Gi", "7Gi", "6100M"])
def test_a_limit_that_is_large_enough_is_kept(limit: str) -> None:
    """Whatever its unit, a stated limit is compared as Kubernetes reads it."""
    assert worker_memory("scram", f'resources.limits.memory="{limit}"') == limit


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
    """A limit under which an admitted picture kills the service is refused."""
    with pytest.raises(Refused, match=says):
        render(scenario, setting)


def test_a_scan_has_a_process_for_each_core() -> None:
    """The limit of a scan's process grows with its cores."""

    def scan(cpu: str) -> str:
        documents = render("rescan", f'scan.resources.requests.cpu="{cpu}"')
        (job,) = (each for each in documents if each["metadata"]["name"].startswith("unlensed-scan-"))
        return str(job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])

    assert [scan("1"), scan("1500m"), scan("2")] == ["5666Mi", "5794Mi", "5794Mi"]
