"""How long a scan would take on this machine, measured by reading and scoring a few of the archive's images."""

import math
import time
from dataclasses import dataclass, replace
from datetime import timedelta

from rich.filesize import decimal
from rich.table import Table

from scorer.archive.items import Item
from scorer.archive.left_out import describe_left_out
from scorer.archive.scan import make_request
from scorer.archive.source.access import read_image_bytes
from scorer.archive.source.estimate import Estimate
from scorer.face_boxes import Boxes
from scorer.local_scorer import LocalScorer
from scorer.locate import LocatedImage

_BATCH_IMAGES = 8  # small, so that reading and scoring also overlap in a short trial


@dataclass(frozen=True, slots=True)
class Trial:
    """The measured speed, and the duration that follows from it.

    Attributes:
        sampled_images: how many images were scored.
        images_per_s: the measured speed.
        duration_s: of the whole scan in one process like this one; None if the number of images is unknown.
    """

    sampled_images: int
    images_per_s: float
    duration_s: float | None


def try_scan(estimate: Estimate, scorer: LocalScorer, boxes: Boxes | None) -> Trial:
    """Score a sample of the archive.

    Args:
        estimate: the archive's size, and the sample.
        scorer: scores the images.
        boxes: of faces by content_id; None means that the detector finds the faces.

    Raises:
        SourceChanged: a tar or manifest no longer exists.
        PayloadUnavailable: a store fails.
    """

    def locate(item: Item) -> LocatedImage:
        request = make_request(item if boxes is None else replace(item, faces=boxes.get(item.content_id, ())))
        return scorer.read_and_locate(request, lambda: read_image_bytes(item, estimate.access))

    started_s = time.perf_counter()
    images = sum(1 for _ in scorer.open_pipeline(locate, batch_images=_BATCH_IMAGES).run(estimate.read_sample()))
    rate = images / (time.perf_counter() - started_s)
    return Trial(images, rate, estimate.images / rate if estimate.images is not None and images else None)


def tabulate(estimate: Estimate, trial: Trial) -> Table:
    """Return the table of a dry run."""
    facts = estimate.facts
    in_tars = f", and about {estimate.tar_images or 0:,} in {facts.uncounted:,} tars" if facts.uncounted else ""
    unsized = f", and {facts.unsized_images:,} images of unknown size" if facts.unsized_images else ""
    duration = "unknown" if trial.duration_s is None else f"about {timedelta(seconds=math.ceil(trial.duration_s))}"
    uncounted = "; other files in tars are counted when the tars are read" if facts.uncounted else ""
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("images", f"{facts.images:,}{in_tars}"),
        ("bytes", decimal(facts.image_bytes + facts.uncounted_bytes) + unsized),
        ("shards", f"{facts.shards:,}"),
        ("not scored", (describe_left_out(facts.left_out) or "nothing is left out") + uncounted),
        ("speed", f"{trial.images_per_s:.3g} images/s, measured on {trial.sampled_images} of them"),
        ("duration", f"{duration}, for one process like this one"),
    ):
        table.add_row(name, value)
    return table
