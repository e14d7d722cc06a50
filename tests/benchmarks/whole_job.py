"""`make bench`, fourth part: originals of 1 to 50 megapixels whose faces are not given, through `score` and `scan`.

    PYTHONPATH=. python tests/benchmarks/whole_job.py [--sizes 1,12] [--kinds baseline] [--images 24] [--bundle DIR]

Prints, never asserts. All figures are CPU time over all processes, so that a busy machine changes them little. Beside
them stands the limit, whose parts are measured alone in the same run: one decode at the cheapest scale that shows the
smallest wanted face, one pass of the detector, one resize of the decoded faces, one pass of the engine. The product
decodes the rows of the faces a second time, at full size; "with the second decode" is the limit that includes it. The
last rows are the program that an expert would write (`expert.py`), with the same extractor and mixture. It needs the
file of YuNet that OpenCV reads: `--yunet`, by default the one in ../shared.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import skimage
from expert import Job
from photographs import PORTRAIT_FACE
from PIL import Image
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from watched import run_watched

from ingest.dali import FaceCropper
from ingest.decode import decode_reduced
from ingest.detect import PyramidDetector, load_detector, plan_scales
from ingest.network_files import list_network_files, unpack
from ingest.orientation import find_stored_window, turn_upright
from ingest.probe import EncodedFace, ImageInfo, probe_image, strip_metadata
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.openvino import OpenVinoExtractor
from scorer.local_scorer import LocalScorer
from scorer.messages import ImageSource, ScoreRequest
from scorer.settings import Settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
YUNET = ROOT.parent / "shared" / "weights" / "yunet_n_dynamic.onnx"
ORIGINALS = 3  # different pictures of a kind; the other files are links to them
BYTES_PER_PIXEL = 0.22  # of a phone's JPEG: the median of 60 photographs of 12 megapixels
HEIC_MEGAPIXELS = 12  # its encoder takes seconds for each
KINDS = ("baseline", "restarts", "progressive", "HEIC")  # restarts: baseline with a marker for each row of MCUs


@dataclass(frozen=True, slots=True)
class Limit:
    """Core-ms of an image for each part, measured alone."""

    decode: float
    detect: float
    cut: float
    resize: float
    engine: float

    @property
    def whole(self) -> float:
        """Core-ms of an image decoded once."""
        return self.decode + self.detect + self.resize + self.engine

    @property
    def decoded_twice(self) -> float:
        """Core-ms of an image whose faces are decoded a second time at full size."""
        return self.decode + self.detect + self.cut + self.engine


def draw_original(rng: np.random.Generator, megapixels: float) -> Image.Image:
    """Return a scene of 4:3 with the astronaut's portrait, whose face has an eighth to a quarter of the height."""
    folder = Path(skimage.__file__).parent / "data"
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5 / 16) * 16
    width = round(height / 3) * 4
    scene = Image.open(folder / rng.choice(["coffee.png", "chelsea.png", "rocket.jpg"])).convert("RGB")
    scene = scene.resize((width, height), Image.Resampling.BICUBIC)
    scale = rng.uniform(1 / 8, 1 / 4) * height / PORTRAIT_FACE[3]
    side = round(512 * scale)
    portrait = Image.open(folder / "astronaut.png").convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    scene.paste(portrait, (int(rng.integers(0, width - side + 1)), int(rng.integers(0, max(1, height - side)))))
    noise = rng.normal(0, 4, (509, 509, 3)).round().astype(np.int16)  # as of a sensor; the same tile everywhere
    repeats = (-(-height // 509), -(-width // 509), 1)
    pixels = np.asarray(scene) + np.tile(noise, repeats)[:height, :width]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode_original(picture: Image.Image, kind: str) -> bytes:
    """Return the picture as a file of `kind`; a JPEG has about `BYTES_PER_PIXEL`."""
    file = io.BytesIO()
    if kind == "HEIC":
        import pillow_heif  # noqa: PLC0415 - the only kind that needs it

        pillow_heif.from_pillow(picture).save(file, quality=60)
        return file.getvalue()
    for quality in range(92, 60, -4):
        file = io.BytesIO()
        rows = 1 if kind == "restarts" else 0
        picture.save(file, "JPEG", quality=quality, progressive=kind == "progressive", restart_marker_rows=rows)
        if len(file.getvalue()) <= BYTES_PER_PIXEL * picture.width * picture.height:
            break
    return file.getvalue()


def write_originals(folder: Path, megapixels: float, kind: str, images: int) -> list[Path]:
    """Write `images` files, of which `ORIGINALS` differ (one in HEIC), and a manifest of them for `scan`."""
    folder.mkdir()
    rng = np.random.default_rng(round(megapixels))
    suffix = ".heic" if kind == "HEIC" else ".jpg"
    different = 1 if kind == "HEIC" else ORIGINALS
    paths = [folder / f"{number:05d}{suffix}" for number in range(images)]
    for number, path in enumerate(paths):
        if number < different:
            path.write_bytes(encode_original(draw_original(rng, megapixels), kind))
        else:
            path.hardlink_to(paths[number % different])
    lines = [json.dumps({"uri": path.as_uri()}) + "\n" for path in paths]
    (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    return paths


def time_part(work: Callable[[], object]) -> float:
    """Return the core-ms of the fastest of three runs."""
    times = []
    for _ in range(3):
        before = time.process_time()
        work()
        times.append((time.process_time() - before) * 1e3)
    return min(times)


def measure_limit(bundle: Bundle, paths: Sequence[Path]) -> Limit:
    """Measure each part alone, on one core, for every different original."""
    spec = bundle.model.preprocess
    detector = load_detector(bundle.folder, bundle.manifest.detector, 1)
    cropper = FaceCropper(spec, 1, 8)
    extractor = OpenVinoExtractor(bundle.extractor, bundle.manifest.feature_size, 1)
    rows = []
    for path in paths[:ORIGINALS]:
        data = path.read_bytes()
        info = probe_image(data)
        windows = [EncodedFace.around(data, info, face.box, spec) for face in detector.detect(data, info)]
        faces = [face for face in windows if face]
        rows.append(_measure_parts(detector, cropper, extractor, data, info, faces))
    return Limit(*np.mean(rows, axis=0))


def _measure_parts(
    detector: PyramidDetector,
    cropper: FaceCropper,
    extractor: OpenVinoExtractor,
    data: bytes,
    info: ImageInfo,
    faces: Sequence[EncodedFace],
) -> tuple[float, ...]:
    bare, size = strip_metadata(data, info.media_type), (info.width, info.height)
    scales = plan_scales(size, detector.spec, detector.spec.min_face_px)
    stored, _ = decode_reduced(bare, info, scales[0])
    small = Image.fromarray(turn_upright(stored, info.orientation))
    find = lambda: detector._find_faces(small, size, scales, detector.spec.min_face_px)  # noqa: E731, SLF001
    whole, _ = decode_reduced(bare, info, 1.0)
    parts = [_cut(whole, face) for face in faces]
    crops = [crop for crop in cropper.crop(faces) if isinstance(crop, np.ndarray)]
    features = np.zeros((len(crops), extractor.feature_size), np.float32)

    def embed() -> None:
        extractor.start(crops, range(len(crops)), features)
        extractor.wait()

    return (
        time_part(lambda: decode_reduced(bare, info, scales[0])),
        time_part(find),
        time_part(lambda: cropper.crop(faces)),
        time_part(lambda: [cropper.resize(part) for part in parts]),
        time_part(embed),
    )


def _cut(whole: np.ndarray, face: EncodedFace) -> np.ndarray:
    stored = find_stored_window(face.window, face.info)
    part = whole[stored.top : stored.top + stored.height, stored.left : stored.left + stored.width]
    return np.ascontiguousarray(turn_upright(part, face.info.orientation))


def measure_score(scorer: LocalScorer, paths: Sequence[Path]) -> tuple[float, int]:
    """Return core-ms of an image, from file to result, over all processes, and how many images got a score."""
    requests = [
        ScoreRequest(request_id=path.name, content_id=path.name, image=ImageSource(uri=path.as_uri())) for path in paths
    ]
    list(scorer.score(requests[:ORIGINALS]))
    before = _read_cpu_s()
    scored = sum(result.score is not None for result in scorer.score(requests))
    return (_read_cpu_s() - before) / len(paths) * 1e3, scored


def _read_cpu_s() -> float:
    root = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (root, *root.children(recursive=True)))


def measure_scan(options: argparse.Namespace, folder: Path) -> float:
    """Return core-ms of an image of `unlensed scan`, from the first image to the last shard's commit."""
    from archive import run_scan  # noqa: PLC0415 - loads PyTorch for its own rivals

    scan = run_scan(options.bundle, folder / "manifest.jsonl", folder, options.threads, with_faces=False)
    return scan.core_s * 1e3


def run_expert(bundle: Bundle, paths: Sequence[Path], yunet: Path, threads: int, scratch: Path) -> float:
    """Return core-ms of an image of the expert's program."""
    network = scratch / "expert.xml"
    graph, weights = list_network_files(bundle.extractor)
    network.write_bytes(unpack(graph.read_bytes()))
    network.with_suffix(".bin").write_bytes(unpack(weights.read_bytes()))
    job = Job([str(path) for path in paths], str(network), str(bundle.folder / "mixture.npz"), str(yunet), 224, threads)
    task, answer = scratch / "job.json", scratch / "answer.json"
    task.write_text(json.dumps(asdict(job)))
    command = [sys.executable, str(HERE / "expert.py"), str(task), str(answer)]
    run_watched(command, scratch / "expert.log", os.environ, scratch)
    found = json.loads(answer.read_text())
    return float(found["cpu_s"]) / len(paths) * 1e3


def measure_kind(options: argparse.Namespace, folder: Path, megapixels: float, kind: str) -> list[str]:
    """Return the row of the table for one size and kind."""
    images = max(2 * ORIGINALS, round(options.images * min(1.0, 12 / megapixels)))
    paths = write_originals(folder, megapixels, kind, images)
    bundle = read_bundle(options.bundle)
    limit = measure_limit(bundle, paths)
    scorer = LocalScorer(Settings(bundle=options.bundle, threads=options.threads))
    scored_ms, scored = measure_score(scorer, paths)
    scorer.close()
    scanned = "" if options.no_scan else f"{measure_scan(options, folder):.1f}"
    expert = ("no YuNet", "")
    if options.yunet.is_file():
        expert_ms = run_expert(bundle, paths, options.yunet, options.threads, folder)
        expert = (f"{expert_ms:.1f}", f"{expert_ms / scored_ms:.2f}")
    stages = (limit.decode, limit.detect, limit.cut, limit.resize, limit.engine)
    return [
        f"{megapixels:g} {kind}",
        f"{paths[0].stat().st_size / 1e6:.2f}",
        f"{scored}/{images}",
        " ".join(f"{part:.1f}" for part in stages),
        f"{scored_ms:.1f}",
        f"{limit.whole / scored_ms:.0%}",
        f"{limit.decoded_twice / scored_ms:.0%}",
        scanned,
        *expert,
    ]


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,12,24,50", help="megapixels")
    parser.add_argument("--images", type=int, default=24, help="files up to 12 megapixels; fewer larger ones")
    parser.add_argument("--bundle", type=lambda text: Path(text).absolute(), default=ROOT / "model_repository")
    parser.add_argument("--yunet", type=Path, default=YUNET, help="YuNet as ONNX, for the expert's program")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--no-scan", action="store_true", help="leave out `unlensed scan`")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    options = parse_options()
    parts = "decode detect cut resize engine"
    columns = ("MB", "scored", parts, "score", "of the limit", "with the second decode", "scan", "expert", "x")
    table = Table("megapixels", *columns, title=f"faces not given, core-ms an image, {options.threads} threads")
    with threadpool_limits(limits=1, user_api="blas"), tempfile.TemporaryDirectory() as scratch:
        for megapixels in map(float, options.sizes.split(",")):
            for kind in options.kinds.split(","):
                if kind != "HEIC" or megapixels == HEIC_MEGAPIXELS:
                    table.add_row(*measure_kind(options, Path(scratch) / f"{megapixels}-{kind}", megapixels, kind))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
