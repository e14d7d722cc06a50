"""Writes a run's folder with the schemas of `scan`, without a scan."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingest.probe import Limits
from scorer.archive.folder import mark_name, part_name
from scorer.archive.marks import CommitMark, PartFile, WorkInterval
from scorer.archive.report.figures import Face
from scorer.archive.rows import ERRORS, RESULTS
from scorer.archive.run import RunFile
from scorer.bundle.manifest import Evaluation
from scorer.decide import Policy, decide_face
from scorer.messages import Decision, Status

START = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
POLICY = Policy()
CALIBRATION_SIZE = 199


@dataclass(frozen=True)
class WrittenImage:
    """One image of a written run; `p_values` has a number a face, None for an unscored one."""

    name: str
    p_values: tuple[float | None, ...] = ()
    source: str = "holiday"
    camera: str | None = "Canon EOS 5D"
    marks: tuple[str, ...] = ()
    failure: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def decision(self) -> Decision | None:
        """The worst of its faces' decisions."""
        return max((decide_face(p, POLICY) for p in self.p_values), key=lambda d: d.rank, default=None)

    @property
    def status(self) -> Status:
        """The image's status: scored if one of its faces is."""
        if not self.p_values:
            return Status.NO_FACE
        return Status.FAILED if set(self.p_values) == {None} else Status.SCORED

    def rows(self, shard: int, position: int) -> list[dict[str, Any]]:
        """Return the image's rows in `results/`."""
        decisions = [decide_face(p, POLICY) for p in self.p_values]
        image = {
            "schema_version": 1,
            "shard": shard,
            "position": position,
            "content_id": self.name,
            "source": self.source,
            "uri": f"file:///archive/{self.name}",
            "status": self.status,
            "decision": self.decision,
            "reason_codes": [],
            "face_count": len(self.p_values),
            "sha256": hashlib.sha256(self.name.encode()).hexdigest(),
            "width": 800,
            "height": 600,
            "media_type": "image/jpeg",
            "camera": self.camera,
            "jpeg_quality": 90,
            "resampled": list(self.marks),
            "scored_at": START,
        } | self.facts
        faces = [
            {
                "face_id": str(number),
                "face_x": 100.0 + 200 * number,
                "face_y": 100.0,
                "face_width": 120.0,
                "face_height": 140.0,
                "log_likelihood": None if p is None else 100 * p - 900,
                "p_value": p,
                "face_decision": decision,
            }
            for number, (p, decision) in enumerate(zip(self.p_values, decisions, strict=True))
        ]
        return [image | face for face in faces or [{}]]


def write_run(
    folder: Path,
    shards: Sequence[Sequence[WrittenImage]],
    *,
    planned: int | None = None,
    bundle: str = "starter",
    evaluation: Evaluation | None = None,
    policy: Policy = POLICY,
) -> Path:
    """Write a run of `shards`, each committed, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, images in enumerate(shards):
        write_shard(folder, index, images)
    digest = bundle.encode().hex().ljust(64, "0")[:64]
    planned = len(shards) if planned is None else planned
    return write_run_file(folder, planned, bundle, digest, policy=policy, evaluation=evaluation)


def write_run_file(folder: Path, shards: int, bundle: str, digest: str, **fields: Any) -> Path:  # noqa: ANN401
    """Write what a run states of itself, and return its folder."""
    usual = {"version": "1", "created_at": START, "limits": Limits(), "sources": ("/archive",), "options": {}}
    own = {"bundle_id": bundle, "bundle_digest": digest, "shards": shards, "plan_digest": ""}
    (folder / "run.json").write_text(RunFile.model_validate(usual | own | fields).model_dump_json())
    return folder


def write_shard(folder: Path, index: int, images: Sequence[WrittenImage]) -> None:
    """Write the files of one shard and its commit mark."""
    rows = [row for n, image in enumerate(images) if not image.failure for row in image.rows(index, n)]
    errors = [
        {"shard": index, "position": n, "content_id": image.name, "source": image.source, "reason": image.failure}
        for n, image in enumerate(images)
        if image.failure
    ]
    for kind, schema, lines in (("results", RESULTS, rows), ("errors", ERRORS, errors)):
        (folder / kind).mkdir(exist_ok=True)
        if lines or kind == "results":
            pq.write_table(pa.Table.from_pylist(lines, schema), folder / kind / part_name(index))
    counts = Counter("failed" if image.failure else image.decision or "no_face" for image in images)
    started_at = START + timedelta(seconds=10 * index)
    write_mark(
        folder,
        index,
        results={part_name(index): PartFile(rows=len(rows), sha256="")},
        errors={part_name(index): PartFile(rows=len(errors), sha256="")} if errors else {},
        images=len(images),
        faces=sum(len(image.p_values) for image in images),
        **{name: counts[name] for name in ("no_face", "failed", "flag", "review", "pass")},
        work_intervals=(WorkInterval(started_at=started_at, finished_at=started_at + timedelta(seconds=10)),),
        stage_s={"read": 1.0, "decode": 6.0},
    )


def write_mark(folder: Path, shard: int, **fields: Any) -> None:  # noqa: ANN401
    """Write the commit mark of a shard."""
    (folder / "_stats").mkdir(exist_ok=True)
    usual = {"shard": shard, "generation": 0, "errors": {}, "retryable": 0, "bundle_digest": ""}
    text = CommitMark.model_validate(usual | fields).model_dump_json(by_alias=True)
    (folder / "_stats" / mark_name(shard)).write_text(text)


def read_nothing(_: Face) -> None:
    """Represent an archive that no longer exists."""
