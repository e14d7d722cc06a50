"""How a shard becomes part of a run: its files are published, then its mark; only files that a mark names count."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scorer.archive.folder import mark_name, part_name, publish, publish_json, utf8_path
from scorer.archive.marks import COUNTS, CommitMark, PartFile, WorkInterval, list_committed, read_mark
from scorer.archive.output import RETRYABLE, ShardOutput
from scorer.archive.rows import ERRORS, FEATURES, RESULTS
from scorer.errors import RunBroken


def read_errors(folder: Path, mark: CommitMark) -> pa.Table:
    """Return the rows of the images that could not be scored.

    Raises:
        RunBroken: a file is missing or cannot be read.
    """
    tables = [ERRORS.empty_table()]
    for name in mark.errors:
        path = folder / "errors" / name
        try:
            with pq.ParquetFile(utf8_path(path)) as parquet:
                tables.append(parquet.read().cast(ERRORS))
        except (OSError, pa.ArrowException) as error:
            message = f"{path} cannot be read, though {mark_name(mark.shard)} names it: delete that mark in _stats"
            raise RunBroken(message) from error
    return pa.concat_tables(tables)


def select_retryable(errors: pa.Table) -> frozenset[int]:
    """Return the positions of the images that a retry may score."""
    retryable = pa.array(sorted(RETRYABLE), pa.string())
    chosen = errors.filter(pc.is_in(errors["reason"].cast(pa.string()), retryable))
    return frozenset(chosen["position"].to_pylist())


def commit_shard(
    folder: Path, output: ShardOutput, before: CommitMark | None, *, started_at: datetime, bundle_digest: str
) -> CommitMark:
    """Publish a shard's files and then its mark; remove the files that do not count, also after a failure.

    Args:
        folder: the run's folder.
        output: the rows; with `before`, the rows of the retried images.
        before: the shard's present mark.
        started_at: when the work began.
        bundle_digest: of the bundle that scored.

    Raises:
        OSError: for example, the disk is full; the present mark stays valid.
    """
    started_s = time.perf_counter()
    generation = before.generation + 1 if before else 0
    results, errors = output.results.to_table(), output.errors.to_table()
    counts = {name: output.counts[name] for name in COUNTS}
    if before:
        old = read_errors(folder, before)
        retried = pa.concat_arrays([*results["position"].chunks, *errors["position"].chunks, pa.array([], pa.int32())])
        kept = old.filter(pc.invert(pc.is_in(old["position"], retried)))
        errors = pa.concat_tables([kept, errors])
        counts = _add_counts(before, counts, errors)
    name = part_name(output.shard, generation)
    named: dict[str, dict[str, PartFile]] = {
        "results": dict(before.results) if before else {},
        "errors": {},
        "features": dict(before.features) if before else {},
    }
    features = output.features.to_table()
    try:
        if len(results) or not before:
            named["results"][name] = publish_table(folder / "results" / name, results, RESULTS)
        if len(errors):
            named["errors"][name] = publish_table(folder / "errors" / name, errors, ERRORS)
        if len(features):
            named["features"][name] = publish_table(folder / "features" / name, features, FEATURES)
        stage_s = defaultdict(float, before.stage_s if before else {})
        for stage, seconds in output.stage_s.items():
            stage_s[stage] += seconds
        stage_s["write"] += time.perf_counter() - started_s
        mark = CommitMark(
            shard=output.shard,
            generation=generation,
            results=named["results"],
            errors=named["errors"],
            features=named["features"],
            work_intervals=(
                *(before.work_intervals if before else ()),
                WorkInterval(started_at=started_at, finished_at=datetime.now(UTC)),
            ),
            stage_s={stage: round(seconds, 4) for stage, seconds in stage_s.items()},
            bundle_digest=bundle_digest,
            left_out=before.left_out if before else dict(output.left_out),
            **counts,
        )
        publish_json(folder / "_stats" / mark_name(output.shard), mark)
    finally:
        # The mark on disk decides: the new one, or after a failure the old one or none.
        current = read_mark(folder, output.shard)
        written = {*(f"{kind}/{name}" for kind in named), *(before.paths if before else ())}
        for path in written - (current.paths if current else set()):
            (folder / path).unlink(missing_ok=True)
    return mark


def _add_counts(before: CommitMark, counts: Mapping[str, int], errors: pa.Table) -> dict[str, int]:
    total = {name: count + counts[name] for name, count in before.counts.items()}
    return total | {"images": before.images, "failed": len(errors), "retryable": counts["retryable"]}


def publish_table(path: Path, table: pa.Table, schema: pa.Schema) -> PartFile:
    """Publish a file of a shard, and return its entry of the commit mark.

    Raises:
        OSError: as `publish`.
    """
    digests: list[str] = []

    def verify(partial: Path) -> None:
        with pq.ParquetFile(utf8_path(partial)) as parquet:
            read_back = parquet.read()
        if read_back.num_rows != len(table) or not read_back.schema.equals(schema):
            message = f"{path} was not written correctly: {read_back.num_rows} of {len(table)} rows were read back"
            raise OSError(message)
        with partial.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())

    publish(path, lambda file: pq.write_table(table, file, compression="zstd"), verify)
    return PartFile(rows=len(table), sha256=digests[0])


def finish_run(folder: Path, shards: int, report: Callable[[Path], object] = lambda _: None) -> int:
    """Write the run's report and `_SUCCESS` when every shard is committed; return how many are not.

    Two processes may both find the last shard committed. They then write the same bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    missing = shards - len(list_committed(folder))
    if not missing:
        report(folder)
        publish(folder / "_SUCCESS", lambda _: None, lambda _: None)
    return missing
