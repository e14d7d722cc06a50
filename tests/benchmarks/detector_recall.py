"""How many faces of YuNet at full size the bundle's detector finds, what else it finds, and its time.

    python tests/benchmarks/detector_recall.py PHOTOGRAPHS... [--threads 2] [--sheets FOLDER]

PHOTOGRAPHS are files or folders of any depth. Needs ../shared (the published YuNet and `find_faces`) and opencv. Not a
test: it prints tables. The bundle's detector is the same network on reduced pixels, so that faces that no YuNet finds
are not counted.

- Recall: YuNet's faces of at least 100 px (short side) at score >= 0.9, found when a box reaches IoU 0.4;
  the interval is the 95 % bootstrap over photographs, since faces of one photograph are alike.
- Extra: boxes of ours with no YuNet face of score >= 0.5 at IoU >= 0.2. Some are faces that YuNet misses, and only
  eyes can tell: `--sheets` draws each of them with its number, confidence and size, 60 on a page. The pages show
  private people; they are for looking at, not for keeping. The first look alone, without the second, is counted
  beside it.
- Faceless: photographs in which YuNet sees nothing, not even at score 0.3.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from rich.console import Console
from rich.table import Table
from skimage import data as pictures

from ingest.detect import DetectorSpec, FaceDetector, load_detector
from ingest.probe import probe_image
from ingest.reasons import Unscorable
from scorer.settings import find_starter

WANTED_PX, WANTED_SCORE, FOUND_IOU = 100, 0.9, 0.4
SEEN_SCORE, NEAR_IOU = 0.5, 0.2
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
THUMBNAIL_PX, COLUMNS, ON_A_PAGE = 170, 10, 60
FIRST_LOOK = {"min_confidence": 0.7, "sure_confidence": 0.7}  # every candidate is a face, without the second look


@dataclass(frozen=True)
class Comparison:
    """One photograph: YuNet's faces (N, 5) and ours (M, 5), rows of x, y, width, height, confidence."""

    path: Path
    yunet: NDArray[np.float64]
    ours: NDArray[np.float64]

    @property
    def wanted(self) -> NDArray[np.float64]:
        """YuNet's large, sure faces."""
        return self.yunet[(self.yunet[:, 2:4].min(axis=1) >= WANTED_PX) & (self.yunet[:, 4] >= WANTED_SCORE)]

    @property
    def agreement(self) -> NDArray[np.float64]:
        """The best IoU of each wanted face."""
        return measure_iou(self.wanted, self.ours).max(axis=1, initial=0)

    @property
    def extra(self) -> NDArray[np.float64]:
        """Our boxes without a box of YuNet."""
        seen = self.yunet[self.yunet[:, 4] >= SEEN_SCORE]
        return self.ours[measure_iou(self.ours, seen).max(axis=1, initial=0) < NEAR_IOU]


def measure_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (N, M) intersections over unions."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:4], b[None, :, :2] + b[None, :, 2:4])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    iou: NDArray[np.float64] = shared / (a[:, None, 2:4].prod(axis=2) + b[None, :, 2:4].prod(axis=2) - shared)
    return iou


def list_photographs(places: Sequence[Path]) -> list[Path]:
    """Return the images in `places`, files or folders, each once."""
    found = {path for place in places for path in ([place] if place.is_file() else place.rglob("*"))}
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def compare_photographs(
    places: Sequence[Path], detectors: Sequence[FaceDetector], console: Console
) -> list[list[Comparison]]:
    """Run each of `detectors` and YuNet over every image of `places` that can be scored; one list for each."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "shared" / "tools"))
    from collect_photos import find_faces  # type: ignore[import-not-found]  # noqa: PLC0415 - lies outside the tree

    compared: list[list[Comparison]] = [[] for _ in detectors]
    for path in list_photographs(places):
        data = path.read_bytes()
        try:
            found = [detector.detect(data, probe_image(data)) for detector in detectors]
        except Unscorable as failure:
            console.print(f"left out {path}: {failure}")
            continue
        with Image.open(io.BytesIO(data)) as image:
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        yunet = np.array(find_faces(rgb, threshold=0.3), np.float64).reshape(-1, 5)
        for faces, rows in zip(found, compared, strict=True):
            ours = np.array([(*face.box.as_tuple(), face.confidence) for face in faces], np.float64)
            rows.append(Comparison(path, yunet, ours.reshape(-1, 5)))
    return compared


def draw_sheets(compared: Sequence[Comparison], folder: Path) -> int:
    """Write pages of the extra boxes into `folder` and return how many boxes there are."""
    folder.mkdir(parents=True, exist_ok=True)
    thumbnails = list(_cut_extras(compared))
    for first in range(0, len(thumbnails), ON_A_PAGE):
        shown = thumbnails[first : first + ON_A_PAGE]
        page = Image.new("RGB", (COLUMNS * THUMBNAIL_PX, -(-len(shown) // COLUMNS) * THUMBNAIL_PX))
        for place, thumbnail in enumerate(shown):
            page.paste(thumbnail, (place % COLUMNS * THUMBNAIL_PX, place // COLUMNS * THUMBNAIL_PX))
        page.save(folder / f"extra-{first // ON_A_PAGE}.png")
    return len(thumbnails)


def _cut_extras(compared: Sequence[Comparison]) -> Iterator[Image.Image]:
    number = 0
    for one in compared:
        if not len(one.extra):
            continue
        with Image.open(one.path) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
        for x, y, width, height, confidence in one.extra:
            half = 1.1 * max(width, height)
            left, top, scale = x + width / 2 - half, y + height / 2 - half, THUMBNAIL_PX / (2 * half)
            window = tuple(round(side) for side in (left, top, left + 2 * half, top + 2 * half))
            thumbnail = picture.crop(window).resize((THUMBNAIL_PX, THUMBNAIL_PX))  # type: ignore[arg-type]
            draw = ImageDraw.Draw(thumbnail)
            corner = (x - left) * scale, (y - top) * scale
            draw.rectangle((*corner, corner[0] + width * scale, corner[1] + height * scale), outline="lime")
            draw.text((2, 0), f"{number}: {confidence:.2f}, {min(width, height):.0f} px", fill="white", stroke_width=1)
            number += 1
            yield thumbnail


def tabulate_accuracy(compared: Sequence[Comparison], title: str) -> Table:
    """Return recall, agreement of boxes, extra boxes and boxes in faceless photographs."""
    table = Table("against YuNet", "figure", title=f"{title}, {len(compared)} photographs")
    hits = np.array([[(one.agreement >= FOUND_IOU).sum(), len(one.wanted)] for one in compared if len(one.wanted)])
    if len(hits):
        sums = hits[np.random.default_rng(0).integers(0, len(hits), (2000, len(hits)))].sum(axis=1)
        low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
        found, wanted = hits.sum(axis=0)
        ious = np.concatenate([one.agreement for one in compared])
        table.add_row("recall", f"{found / wanted:.4f} ({found} of {wanted} faces in {len(hits)} photographs)")
        table.add_row("its 95 % interval", f"{low:.4f} to {high:.4f}")
        table.add_row("IoU of the boxes", f"median {np.median(ious):.3f}, 5th percentile {np.quantile(ious, 0.05):.3f}")
    table.add_row(
        "extra boxes", f"{sum(len(one.extra) for one in compared)} of {sum(len(one.ours) for one in compared)}"
    )
    faceless = [one for one in compared if not len(one.yunet)]
    table.add_row("faceless with a box", f"{sum(len(one.ours) > 0 for one in faceless)} of {len(faceless)}")
    return table


def tabulate_cost(folder: Path, spec: DetectorSpec, threads: int) -> Table:
    """Return milliseconds per image, decode included, for JPEGs of several sizes; the best of several runs."""
    table = Table("megapixels", "threads", "ms / image", title="JPEG bytes to boxes")
    portrait = Image.fromarray(pictures.astronaut())
    for count in range(1, threads + 1):
        detector = load_detector(folder, spec, count)
        for megapixels, size in (("0.3", (640, 480)), ("1", (1200, 800)), ("12", (4000, 3000)), ("24", (6000, 4000))):
            buffer = io.BytesIO()
            portrait.resize(size).save(buffer, "JPEG", quality=90)
            info = probe_image(buffer.getvalue())
            times = []
            for _ in range(15):
                start = time.perf_counter()
                detector.detect(buffer.getvalue(), info)
                times.append((time.perf_counter() - start) * 1e3)
            table.add_row(megapixels, str(count), f"{min(times):.1f}")
    return table


def main() -> None:
    """Parse the command line and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="+")
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder, spec = find_starter(), DetectorSpec()
    console = Console()
    console.print(tabulate_cost(folder, spec, options.threads))
    detectors = [load_detector(folder, each, options.threads) for each in (replace(spec, **FIRST_LOOK), spec)]
    first, both = compare_photographs(options.photographs, detectors, console)
    console.print(tabulate_accuracy(first, "the first look alone"))
    console.print(tabulate_accuracy(both, "as shipped"))
    if options.sheets:
        console.print(f"{draw_sheets(both, options.sheets)} extra boxes drawn in {options.sheets}")


if __name__ == "__main__":
    main()
