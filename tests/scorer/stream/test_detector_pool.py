"""The detector in processes of its own: the same answers, and nothing but the guilty image suffers a death."""

import io
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ingest.detect import FaceDetector, load_detector
from ingest.probe import probe_image
from ingest.reasons import Reason, Unscorable
from scorer.bundle import Bundle
from scorer.stream.detector_child import MEMORY_BYTES, receive_frame, send_frame
from scorer.stream.detector_pool import DetectorBroken, DetectorPool
from scorer.stream.patience import Stopped

# Loaded by each process that this file starts: some bytes behind an image do what a broken decoder would do.
SABOTAGE = """
import ctypes, os, time
from ingest.detect import PyramidDetector
honest = PyramidDetector.detect
def detect(self, data, info, min_face_px=None):
    if data.endswith(b"SEGFAULT"): ctypes.string_at(0)
    if data.endswith(b"HANG"):
        open(__file__ + ".hangs", "w").close()
        time.sleep(60)
    if data.endswith(b"LIE"): os.write(0, b"\\xff" * 64)
    return honest(self, data, info, min_face_px)
PyramidDetector.detect = detect
"""
# For the processes only: this one has loaded its libraries, and must find the same faces with its own kernels.
OTHER_KERNELS = {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "X86_V4", "ONEDNN_MAX_CPU_ISA": "AVX2"}
PARENT = """
import sys, time
from pathlib import Path
from ingest.probe import probe_image
from scorer.bundle import read_bundle
from scorer.stream.detector_pool import DetectorPool
bundle, data = read_bundle(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
pool = DetectorPool(bundle.folder, bundle.manifest.detector, 1, timeout_s=1)
pool.start()
print("started", flush=True)
if data.endswith(b"HANG"):
    pool.detect(data, probe_image(data))
time.sleep(60)
"""


def encode(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return `picture` as encoded bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def children(parent: int | None = None) -> list[psutil.Process]:
    """Return the living detector processes of a process."""
    return [
        child
        for child in psutil.Process(parent).children()
        if child.status() != psutil.STATUS_ZOMBIE and "scorer.stream.detector_child" in child.cmdline()
    ]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; fail after a minute."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("waited for a minute")


@pytest.fixture(scope="module")
def jpeg(portrait: bytes) -> bytes:
    """The portrait as JPEG."""
    return encode(Image.open(io.BytesIO(portrait)).convert("RGB"))


@pytest.fixture(scope="module")
def local(starter: Bundle) -> FaceDetector:
    """The detector in this process."""
    return load_detector(starter.folder, starter.manifest.detector, threads=1)


@pytest.fixture(scope="module")
def hangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make detector processes that can be sabotaged; the file that one makes when it begins to hang."""
    folder = tmp_path_factory.mktemp("sabotage")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("UNLENSED_KAFKA__PASSWORD", "hunter2")
        for name, value in OTHER_KERNELS.items():
            patch.setenv(name, value)
        yield folder / "sitecustomize.py.hangs"


@pytest.fixture(scope="module")
def pool(starter: Bundle, hangs: Path) -> Iterator[DetectorPool]:
    """Two processes, patient enough for a busy machine."""
    assert hangs.parent.is_dir()
    pool = DetectorPool(starter.folder, starter.manifest.detector, 2, timeout_s=20)
    pool.start()
    yield pool
    pool.close()


def test_answers_are_those_of_this_process(
    pool: DetectorPool, local: FaceDetector, jpeg: bytes, portrait: bytes
) -> None:
    """Formats, sizes, orientations and an image without a face: equal to the last bit."""
    picture = Image.open(io.BytesIO(portrait)).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise = np.random.default_rng(5).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    images = [
        jpeg,
        portrait,
        encode(picture.resize((1700, 1300))),
        encode(picture, "WEBP"),
        encode(picture.rotate(-90), exif=turned),
        encode(Image.fromarray(noise)),
    ]
    answers = [pool.detect(data, probe_image(data)) for data in images]
    assert answers == [local.detect(data, probe_image(data)) for data in images]
    assert [len(faces) for faces in answers].count(0) < len(images)


def test_refusals_are_those_of_this_process(pool: DetectorPool, local: FaceDetector, portrait: bytes) -> None:
    """Bytes that cannot be decoded are refused in the same words, and the process stays."""
    info, before = probe_image(portrait), {child.pid for child in children()}
    broken = portrait[:200] + bytes(len(portrait) - 200)
    with pytest.raises(Unscorable) as here:
        local.detect(broken, info)
    with pytest.raises(Unscorable) as there:
        pool.detect(broken, info)
    assert (there.value.reason, there.value.detail) == (here.value.reason, here.value.detail)
    assert {child.pid for child in children()} == before


def test_kill_in_the_middle_costs_nobody_an_answer(pool: DetectorPool, local: FaceDetector, jpeg: bytes) -> None:
    """`kill -9` while a process computes: its image is answered by a fresh one, neighbours never notice."""
    large = Image.new("L", (9000, 9000))
    large.paste(Image.open(io.BytesIO(jpeg)).resize((2000, 2000)))
    slow = encode(large, "PNG", compress_level=1)
    expected, quick = local.detect(slow, probe_image(slow)), local.detect(jpeg, probe_image(jpeg))
    assert expected
    before = {child.pid: child.cpu_times().user for child in children()}
    assert len(before) == 2
    with ThreadPoolExecutor(4) as callers:
        answer = callers.submit(pool.detect, slow, probe_image(slow))
        wait_for(lambda: any(child.cpu_times().user > before[child.pid] + 0.05 for child in children()))
        (busy,) = [child for child in children() if child.cpu_times().user > before[child.pid] + 0.05]
        neighbours = [callers.submit(pool.detect, jpeg, probe_image(jpeg)) for _ in range(9)]
        assert not answer.done()
        busy.kill()
        assert answer.result() == expected
        assert [neighbour.result() for neighbour in neighbours] == [quick] * 9
    after = {child.pid for child in children()}
    assert len(after) == 2
    assert busy.pid not in after


@pytest.mark.parametrize(("end", "sentence"), [(b"SEGFAULT", "status -11"), (b"LIE", "status -9")])
def test_image_that_kills_twice_is_refused(
    pool: DetectorPool, local: FaceDetector, jpeg: bytes, end: bytes, sentence: str
) -> None:
    """An image on which two processes die is undecodable; its neighbours get their answers meanwhile and after."""
    with ThreadPoolExecutor(3) as callers:
        guilty = callers.submit(pool.detect, jpeg + end, probe_image(jpeg))
        innocent = [callers.submit(pool.detect, jpeg, probe_image(jpeg)) for _ in range(4)]
        with pytest.raises(Unscorable, match=sentence) as failure:
            guilty.result()
        expected = local.detect(jpeg, probe_image(jpeg))
        assert [answer.result() for answer in innocent] == [expected] * 4
    assert failure.value.reason is Reason.UNDECODABLE
    assert pool.detect(jpeg, probe_image(jpeg)) == expected


@pytest.mark.usefixtures("hangs")
def test_image_that_hangs_twice_is_timed_out(starter: Bundle, local: FaceDetector, jpeg: bytes) -> None:
    """An image that takes too long twice is timed_out, its processes are gone, and the next image is answered."""
    before = {child.pid for child in children()}
    impatient = DetectorPool(starter.folder, starter.manifest.detector, 1, timeout_s=1)
    with pytest.raises(Unscorable) as failure:
        impatient.detect(jpeg + b"HANG", probe_image(jpeg))
    assert failure.value.reason is Reason.TIMED_OUT
    assert {child.pid for child in children()} == before
    assert impatient.detect(jpeg, probe_image(jpeg)) == local.detect(jpeg, probe_image(jpeg))
    impatient.close()
    assert {child.pid for child in children()} == before


def test_processes_know_no_secrets_and_their_limits(pool: DetectorPool, jpeg: bytes) -> None:
    """They get no variable of the service but what decides how to compute, bounded memory and no core dumps.

    Signals they leave to the service.
    """
    pool.start()
    (child, other) = children()
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    for _ in range(4):
        pool.detect(jpeg, probe_image(jpeg))
    assert {child, other} == set(children())
    assert "hunter2" not in str(child.environ())
    assert child.environ().items() >= (OTHER_KERNELS | {"OPENBLAS_NUM_THREADS": "1"}).items()
    assert child.rlimit(resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.parametrize("ending", [b"", b"HANG"])
def test_processes_die_with_their_service(
    starter: Bundle, hangs: Path, jpeg: bytes, tmp_path: Path, ending: bytes
) -> None:
    """After `kill -9` of the service its processes end, idle or hanging."""
    hangs.unlink(missing_ok=True)
    image = tmp_path / "image.jpg"
    image.write_bytes(jpeg + ending)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(starter.folder), str(image)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        (child,) = children(parent.pid)
        if ending:
            wait_for(hangs.exists)
        parent.kill()
    assert psutil.wait_procs([child], timeout=60)[1] == []


@pytest.mark.usefixtures("hangs")
def test_close_sends_everybody_home(starter: Bundle, jpeg: bytes) -> None:
    """Callers that are served and callers that wait are stopped; no process and no descriptor is left."""
    before, descriptors = set(children()), psutil.Process().num_fds()
    closing = DetectorPool(starter.folder, starter.manifest.detector, 1, timeout_s=60)
    closing.start()
    with ThreadPoolExecutor(3) as callers:
        answers: list[Future[object]] = [
            callers.submit(closing.detect, jpeg + b"HANG", probe_image(jpeg)) for _ in range(3)
        ]
        wait_for(lambda: any(answer.running() for answer in answers))
        closing.close()
        for answer in answers:
            with pytest.raises(Stopped):
                answer.result()
    assert set(children()) == before
    assert psutil.Process().num_fds() == descriptors
    with pytest.raises(Stopped):
        closing.detect(jpeg, probe_image(jpeg))


def test_missing_weights_are_no_fault_of_an_image(starter: Bundle, tmp_path: Path, jpeg: bytes) -> None:
    """A detector that cannot be loaded is said to be broken, and leaves nothing."""
    before = set(children())
    broken = DetectorPool(tmp_path, starter.manifest.detector, 1, timeout_s=20)
    with pytest.raises(DetectorBroken, match="verify the bundle"):
        broken.detect(jpeg, probe_image(jpeg))
    broken.close()
    assert set(children()) == before


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text()), st.binary(), st.integers(1, 9))
def test_frames_arrive_as_sent(header: dict[str, float | str], data: bytes, piece: int) -> None:
    """A frame is read as it was written, in however small pieces it comes, and a cut one is an end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, header, data)
        ours.close()
        frame = theirs.recv(1 << 20)

    def read(stream: io.BytesIO) -> tuple[dict[str, object], bytes]:
        return receive_frame(lambda buffer: stream.readinto(buffer[:piece]), 1 << 20)

    assert read(io.BytesIO(frame)) == (header, data)
    with pytest.raises(EOFError):
        read(io.BytesIO(frame[:-1]))
    with pytest.raises(ValueError, match="limit"):
        receive_frame(io.BytesIO(frame).readinto, len(frame) - 9)
