"""One process's part in a run: the run, its plan, what the process may read, and its time limits."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from scorer.archive.commit import finish_run, read_errors
from scorer.archive.items import Item, ScanPlan, Shard
from scorer.archive.left_out import LeftOut, describe_left_out
from scorer.archive.marks import needs_work, read_mark
from scorer.archive.outcome import RunOutcome
from scorer.archive.run import RunFile, describe_run, open_run, wait_for_run
from scorer.archive.scan import DEFAULT_TIME_LIMITS, Scan, ScanProgress, TimeLimits
from scorer.archive.source.access import read_image_bytes
from scorer.archive.source.plan import StoredPlan, open_plan, write_plan
from scorer.archive.source.sources import Archive
from scorer.bundle.signature import read_trusted_bundle
from scorer.errors import RunBroken, UsageError
from scorer.face_boxes import Boxes, read_boxes
from scorer.local_scorer import LocalScorer
from scorer.payloads.names import escape_name
from scorer.settings import Settings
from scorer.version import VERSION

PLAN_WAIT_S = 3600.0  # how long the other processes wait for the plan
# Share of an image's time limit that is left to reading. A store that does not answer then fails before the image's
# limit, which distinguishes an outage from a slow detector.
READ_SHARE = 0.8


@dataclass(frozen=True)
class Session:
    """Everything that a process needs to scan shards of a run; it can be sent to another machine that sees `folder`.

    Attributes:
        folder: the run's folder.
        run: its description.
        settings: of the process.
        limits: time limits.
        faces: a file of face boxes by content_id.
    """

    folder: Path
    run: RunFile
    settings: Settings
    limits: TimeLimits = DEFAULT_TIME_LIMITS
    faces: Path | None = None

    def with_limits(self, faces: Path | None, item_s: float, shard_s: float | None) -> "Session":
        """Return this session with time limits and a file of face boxes."""
        return replace(self, faces=faces and faces.absolute(), limits=TimeLimits(item_s, shard_s))

    @cached_property
    def plan(self) -> StoredPlan:
        """The plan.

        Raises:
            RunBroken: it is not the plan that the run was started with.
        """
        plan = open_plan(self.folder / "_plan", self.settings.limits.max_bytes)
        if plan.facts.digest != self.run.plan_digest:
            message = f"{self.folder / '_plan'} is not the plan that run.json describes: scan into another --out"
            raise RunBroken(message)
        return plan

    def open_scan(self, scorer: LocalScorer, on_advance: Callable[[ScanProgress], object] = lambda _: None) -> Scan:
        """Return a scan of the run's shards with a scorer."""
        timeout_s = READ_SHARE * (self.limits.item_s or self.settings.payloads.timeout_s)
        access = self.plan.grant_access(self.settings.payloads.model_copy(update={"timeout_s": timeout_s}))
        plan = PlanWithFaces(self.plan, read_boxes(self.faces)) if self.faces else self.plan
        return Scan(
            self.folder,
            plan,
            scorer,
            lambda item: read_image_bytes(item, access),
            limits=self.limits,
            keep_features=bool(self.run.options.get("keep_features")),
            on_advance=on_advance,
        )

    def count_images(self, shards: Sequence[int]) -> tuple[int | None, int]:
        """Return how many images `shards` have (None where only reading counts them) and how many are committed."""
        total: int | None = 0
        done = 0
        for index in shards:
            images, mark = self.plan.read_shard(index).images, read_mark(self.folder, index)
            images = mark.images if mark else images
            done += mark.images if mark else 0
            total = None if total is None or images is None else total + images
        return total, done

    def has_work(self, shards: Sequence[int], *, retry_failed: bool) -> bool:
        """Return whether any of `shards` is to be scanned."""
        return any(needs_work(read_mark(self.folder, index), retry_failed=retry_failed) for index in shards)

    def finish(self, shards: Sequence[int]) -> RunOutcome:
        """Finish the run if all its shards are committed; return the outcome of `shards`.

        Raises:
            UsageError: the whole run contains no image.
            OSError: the folder cannot be written.
        """
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        left_out = self.plan.facts.left_out
        for index in shards:
            if mark := read_mark(self.folder, index):
                counts.update(mark.counts)
                left_out.update(mark.left_out)
                reasons.update(read_errors(self.folder, mark)["reason"].to_pylist() if mark.failed else [])
        return RunOutcome(finish_run(self.folder, self.run.shards, self._write_report), counts, reasons, left_out)

    def _write_report(self, folder: Path) -> None:
        from scorer.archive.report.reading import ArchiveReader  # noqa: PLC0415 - DuckDB loads only when it is needed
        from scorer.archive.report.run_page import write_report  # noqa: PLC0415

        summary = write_report(folder, ArchiveReader(folder, self.settings))
        if not summary.images:
            found = describe_left_out(summary.left_out)
            reason = f" ({found})" if found else ""
            message = f"{escape_name(', '.join(self.run.sources))} contains no image{reason}"
            raise UsageError(message)


def join_run(  # noqa: PLR0913 - the options of the command line
    folder: Path,
    archive: Archive,
    settings: Settings,
    *,
    shard_images: int,
    faces_digest: str | None,
    first: bool,
    new_run: bool,
    keep_features: bool = False,
) -> Session:
    """Resume the run in `folder`, or start it; only the `first` process plans, and the others wait for the plan.

    Raises:
        RunRefused: the folder contains another run.
        RunNotReady: there is no run yet, and this is not the first process.
        BundleMismatch, PolicyError: the bundle cannot be used, or does not support the policy.
        UsageError, PayloadUnavailable, SourceDamaged: a source cannot be planned.
        OSError: the folder cannot be written.
    """
    bundle = read_trusted_bundle(settings)
    options = {
        "uri_column": archive.uri_column,
        "bytes_column": archive.bytes_column,
        "faces_column": archive.faces_column,
        "faces_sha256": faces_digest,
        "shard_images": shard_images,
        "keep_features": keep_features or None,
    }
    wanted = describe_run(settings, bundle, tuple(map(escape_name, archive.sources)), options, VERSION)

    def make_plan(plan_folder: Path) -> tuple[int, str]:
        facts = write_plan(plan_folder, archive, settings.payloads, shard_images)
        return facts.shards, facts.digest

    run = open_run(folder, wanted, make_plan, new_run=new_run) if first else wait_for_run(folder, wanted, PLAN_WAIT_S)
    # Absolute paths, because another machine has another working folder.
    key = settings.bundle_key and settings.bundle_key.absolute()
    trust = settings.provenance.trust_list and settings.provenance.trust_list.absolute()
    provenance = settings.provenance.model_copy(update={"trust_list": trust})
    paths = {"bundle": settings.bundle.absolute(), "bundle_key": key, "provenance": provenance}
    settings = settings.model_copy(update=paths | {"policy": wanted.policy})
    return Session(folder.absolute(), run, settings)


@dataclass(frozen=True, slots=True)
class PlanWithFaces:
    """A plan whose images have the faces of a file of boxes; an image that the file does not name has no face."""

    plan: ScanPlan
    boxes: Boxes

    def read_shard(self, index: int) -> Shard:
        """Return a shard's description."""
        return self.plan.read_shard(index)

    def read_items(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Item]:
        """Yield the images of a shard."""
        for item in self.plan.read_items(shard, left_out):
            faces = self.boxes.get(item.content_id)
            if faces is None and left_out is not None:
                left_out[LeftOut.NO_BOXES] += 1
            yield replace(item, faces=faces or ())
