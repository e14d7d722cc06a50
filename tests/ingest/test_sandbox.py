"""Decoding in limited processes: the results of this process, and a crash fails only the image that caused it."""

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from ingest.dali import FaceCropper
from ingest.detect import FaceDetector, load_detector
from ingest.detector_child import MESSAGES_BYTES
from ingest.detector_pool import SandboxBroken, SandboxClosed
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.reference import decode_upright
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.bundle import Bundle

# Loaded by each process that this file starts: some bytes after an image make the process act like a faulty decoder.
SABOTAGE = """
import ctypes, os, sys, time
from ingest.dali import FaceCropper
from ingest.detect import PyramidDetector
original_detect, original_crop = PyramidDetector.detect, FaceCropper.crop
def act(data):
    if data.endswith(b"SEGFAULT"): ctypes.string_at(0)
    if data.endswith(b"HANG"):
        with open(__file__ + ".hangs", "a") as hangs: hangs.write("x")
        time.sleep(60)
    if data.endswith(b"LOOP"):
        with open(__file__ + ".hangs", "a") as hangs: hangs.write("x")
        while True: pass
    if data.endswith(b"ALLOCATE"): bytearray(300_000_000)
    if data.endswith(b"KILLED"): os.kill(os.getpid(), 9)
    if data.endswith(b"PRINT"): os.write(2, b"libpng warning: nonsense\\n" * 100_000)
    if data.endswith(b"GARBAGE"): os.write(0, b"\\xff" * 64)
def detect(self, data, info, min_face_px=None):
    act(data)
    return original_detect(self, data, info, min_face_px)
def crop(self, faces):
    for face in faces: act(face.data)
    return original_crop(self, faces)
PyramidDetector.detect, FaceCropper.crop = detect, crop
"""
# For the processes only: this process has loaded its libraries, and must find the same faces with its own kernels.
OTHER_KERNELS = {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "X86_V4", "ONEDNN_MAX_CPU_ISA": "AVX2"}
PARENT = """
import sys, time
from pathlib import Path
from ingest.probe import probe_image
from scorer.bundle.bundle import read_bundle
from ingest.reference import decode_upright
from ingest.sandbox import Sandbox
bundle, data = read_bundle(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
pool = Sandbox(bundle.folder, bundle.manifest.detector, None, 1, timeout_s=1)
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


foreign: set[int] = set()  # decoding processes of other tests


def children(parent: int | None = None) -> list[psutil.Process]:
    """Return the running decoding processes of a process, without those in `foreign`."""
    return [
        child
        for child in psutil.Process(parent).children()
        if child.pid not in foreign
        and child.status() != psutil.STATUS_ZOMBIE
        and "ingest.detector_child" in child.cmdline()
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
def cropper(starter: Bundle) -> FaceCropper:
    """The cropper in this process."""
    return FaceCropper(starter.manifest.preprocess, 1, 8)


@pytest.fixture(scope="module")
def hangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make decoding processes run `SABOTAGE`; return the file to which one writes before it hangs."""
    folder = tmp_path_factory.mktemp("sabotage")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("UNLENSED_KAFKA__PASSWORD", "hunter2")
        for name, value in OTHER_KERNELS.items():
            patch.setenv(name, value)
        yield folder / "sitecustomize.py.hangs"


@pytest.fixture(scope="module")
def pool(starter: Bundle, hangs: Path) -> Iterator[Sandbox]:
    """Two processes, with a time limit for a busy machine."""
    assert hangs.parent.is_dir()
    foreign.update(child.pid for child in children())
    pool = Sandbox(starter.folder, starter.manifest.detector, starter.manifest.preprocess, 2, timeout_s=20)
    pool.start()
    yield pool
    pool.close()


def test_faces_are_those_of_this_process(pool: Sandbox, local: FaceDetector, jpeg: bytes, portrait: bytes) -> None:
    """Formats, sizes, orientations and an image without a face give the same faces, bit for bit."""
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


def test_refusals_are_those_of_this_process(pool: Sandbox, local: FaceDetector, portrait: bytes) -> None:
    """Undecodable bytes are refused with the same message, and the process continues."""
    info, before = probe_image(portrait), {child.pid for child in children()}
    broken = portrait[:200] + bytes(len(portrait) - 200)
    with pytest.raises(Unscorable) as here:
        local.detect(broken, info)
    with pytest.raises(Unscorable) as there:
        pool.detect(broken, info)
    assert (there.value.reason, there.value.detail) == (here.value.reason, here.value.detail)
    assert {child.pid for child in children()} == before


@pytest.mark.slow
def test_a_kill_during_a_job_loses_no_result(pool: Sandbox, local: FaceDetector, jpeg: bytes) -> None:
    """After `kill -9` of a computing process, a new one finds the faces of its image; other images are not affected."""
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


@pytest.mark.slow
@pytest.mark.parametrize(("end", "sentence"), [(b"SEGFAULT", "status -11"), (b"GARBAGE", "an invalid answer")])
def test_an_image_that_crashes_two_processes_is_refused(
    pool: Sandbox, local: FaceDetector, jpeg: bytes, end: bytes, sentence: str
) -> None:
    """An image that crashes two processes is undecodable; other images get their results at the same time and later."""
    with ThreadPoolExecutor(3) as callers:
        bad = callers.submit(pool.detect, jpeg + end, probe_image(jpeg))
        good = [callers.submit(pool.detect, jpeg, probe_image(jpeg)) for _ in range(4)]
        with pytest.raises(Unscorable, match=sentence) as failure:
            bad.result()
        expected = local.detect(jpeg, probe_image(jpeg))
        assert [answer.result() for answer in good] == [expected] * 4
    assert failure.value.reason is Reason.UNDECODABLE
    assert pool.detect(jpeg, probe_image(jpeg)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "timeout_s", "sentence"), [(b"HANG", 5, "within 5 s"), (b"LOOP", 100, "limit of CPU time")]
)
def test_an_image_that_hangs_is_not_retried(
    starter: Bundle, hangs: Path, local: FaceDetector, jpeg: bytes, end: bytes, timeout_s: float, sentence: str
) -> None:
    """An image that sleeps or computes forever is timed_out and not retried, and the next image gets its result."""
    hangs.unlink(missing_ok=True)
    before = {child.pid for child in children()}
    limited = Sandbox(starter.folder, starter.manifest.detector, None, 1, timeout_s=timeout_s)
    with pytest.raises(Unscorable, match=sentence) as failure:
        limited.detect(jpeg + end, probe_image(jpeg))
    assert failure.value.reason is Reason.TIMED_OUT
    assert hangs.read_text() == "x"
    assert {child.pid for child in children()} == before
    assert limited.detect(jpeg, probe_image(jpeg)) == local.detect(jpeg, probe_image(jpeg))
    limited.close()
    assert {child.pid for child in children()} == before


def encode_faces(*files: bytes) -> list[EncodedFace]:
    """Return one face for each file; a suffix that no decoder reads makes a different image."""
    return [EncodedFace(data, probe_image(data), Window(150 + n, 40, 200, 200)) for n, data in enumerate(files)]


def test_crops_are_those_of_this_process(pool: Sandbox, cropper: FaceCropper, jpeg: bytes, portrait: bytes) -> None:
    """Formats, orientations, two faces of an image and a refused one give the same results, bit for bit, in order."""
    picture, turned = Image.open(io.BytesIO(portrait)).convert("RGB"), Image.Exif()
    turned[0x0112] = 6
    files = [
        jpeg,
        portrait,
        jpeg,
        encode(picture, "WEBP"),
        encode(picture, exif=turned),
        encode(picture.resize((1700, 1300))),
    ]
    faces = encode_faces(*files, *(encode(picture, quality=quality) for quality in range(60, 80)))
    short = jpeg[: len(jpeg) // 3]
    faces.insert(3, EncodedFace(short, probe_image(short), Window(100, 300, 200, 200)))
    crops, expected = dict(pool.crop(faces)), cropper.crop(faces)
    assert sorted(crops) == list(range(len(faces)))
    for position, crop in enumerate(expected):
        if isinstance(crop, Unscorable):
            assert str(crops[position]) == str(crop)
        else:
            np.testing.assert_array_equal(crops[position], crop)
    assert [isinstance(crop, Unscorable) for crop in expected].count(True) == 1


@pytest.mark.parametrize(
    ("end", "reason"),
    [(b"SEGFAULT", Reason.UNDECODABLE), (b"KILLED", Reason.OUT_OF_MEMORY), (b"ALLOCATE", Reason.OUT_OF_MEMORY)],
)
def test_a_bad_image_fails_alone_in_its_batch(
    pool: Sandbox, cropper: FaceCropper, jpeg: bytes, end: bytes, reason: Reason
) -> None:
    """Of a batch, only the image that crashes the process or takes too much memory is refused."""
    files = [jpeg, *(jpeg + bytes([number]) for number in range(5)), jpeg + end]
    faces = encode_faces(*files)
    expected = cropper.crop(faces)
    crops = dict(pool.crop(faces))
    bad = crops[len(faces) - 1]
    assert isinstance(bad, Unscorable)
    assert bad.reason is reason
    for position in range(len(faces) - 1):
        np.testing.assert_array_equal(crops[position], expected[position])


@pytest.mark.parametrize("side", [1000, 90])
def test_a_window_is_shown_upright(pool: Sandbox, portrait: bytes, side: int) -> None:
    """The result is the window of the upright picture, in its own size or reduced."""
    picture, turned = Image.open(io.BytesIO(portrait)).convert("RGB"), Image.Exif()
    turned[0x0112] = 6
    data = encode(picture, exif=turned)
    window = Window(100, 50, 300, 200)
    shown = pool.show(data, probe_image(data), window, side)
    expected = Image.fromarray(decode_upright(data)[50:250, 100:400])
    expected.thumbnail((side, side))
    np.testing.assert_array_equal(shown, np.asarray(expected))


def test_messages_of_decoders_are_dropped(pool: Sandbox, jpeg: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """Megabytes of warnings about a decoded image are not printed, and do not fail the job."""
    assert pool.detect(jpeg + b"PRINT", probe_image(jpeg))
    assert capfd.readouterr() == ("", "")


def test_an_image_above_the_memory_limit_is_not_decoded(starter: Bundle) -> None:
    """An image of 38 bytes that needs more memory than allowed gets its own reason, and no process is started."""
    data = encode(Image.new("RGB", (10_000, 10_000)), "WEBP", lossless=True, method=0, quality=0)
    info, before = probe_image(data), set(children())
    small = Sandbox(starter.folder, starter.manifest.detector, starter.manifest.preprocess, 1, memory_bytes=1 << 30)
    with pytest.raises(Unscorable, match="MiB") as failure:
        small.detect(data, info)
    assert failure.value.reason is Reason.OUT_OF_MEMORY
    small._budget.total_bytes = 300 << 20  # noqa: SLF001 - cutting needs less memory than finding
    ((_, refusal),) = small.crop([EncodedFace(data, info, Window(0, 0, 64, 64))])
    assert isinstance(refusal, Unscorable)
    assert refusal.reason is Reason.OUT_OF_MEMORY
    assert set(children()) == before
    small.close()


def test_processes_have_no_secrets_and_are_limited(pool: Sandbox, jpeg: bytes) -> None:
    """They have only the needed variables, limited messages and no core dumps, and ignore the service's signals."""
    pool.start()
    (child, other) = children()
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    for _ in range(4):
        pool.detect(jpeg, probe_image(jpeg))
    assert {child, other} == set(children())
    assert "hunter2" not in str(child.environ())
    assert child.environ().items() >= (OTHER_KERNELS | {"OPENBLAS_NUM_THREADS": "1"}).items()
    assert child.rlimit(resource.RLIMIT_FSIZE) == (MESSAGES_BYTES, MESSAGES_BYTES)
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [b"", b"HANG"])
def test_processes_exit_with_their_service(
    starter: Bundle, hangs: Path, jpeg: bytes, tmp_path: Path, ending: bytes
) -> None:
    """After `kill -9` of the service, its idle and its hanging processes exit."""
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
def test_close_stops_all_calls(starter: Bundle, jpeg: bytes) -> None:
    """Running and waiting calls raise SandboxClosed; no process and no file descriptor is left."""
    before, descriptors = set(children()), psutil.Process().num_fds()
    closing = Sandbox(starter.folder, starter.manifest.detector, starter.manifest.preprocess, 1, timeout_s=60)
    closing.start()
    with ThreadPoolExecutor(3) as callers:
        answers: list[Future[object]] = [
            callers.submit(closing.detect, jpeg + b"HANG", probe_image(jpeg)) for _ in range(3)
        ]
        wait_for(lambda: any(answer.running() for answer in answers))
        closing.close()
        for answer in answers:
            with pytest.raises(SandboxClosed):
                answer.result()
    assert set(children()) == before
    assert psutil.Process().num_fds() == descriptors
    with pytest.raises(SandboxClosed):
        closing.detect(jpeg, probe_image(jpeg))


def test_missing_weights_are_no_failure_of_an_image(starter: Bundle, tmp_path: Path, jpeg: bytes) -> None:
    """A detector that cannot be loaded is an error of the sandbox, and no process is left."""
    before = set(children())
    broken = Sandbox(tmp_path, starter.manifest.detector, None, 1, timeout_s=20)
    with pytest.raises(SandboxBroken, match="fetch the bundle again"):
        broken.detect(jpeg, probe_image(jpeg))
    broken.close()
    assert set(children()) == before
