"""How a shard becomes part of a run: its files are published, then its mark, and only what the mark names counts."""

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scorer.archive.folder import mark_name, part_name, publish
from scorer.archive.marks import CommitMark, Count, RunBroken
from scorer.archive.output import RETRYABLE, ShardOutput
from scorer.archive.rows import ERRORS, RESULTS

COUNTS = ("images", "faces", "no_face", "failed", "retryable", "flag", "review", "pass")


class File(BaseModel):
    """A Parquet file of a shard."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rows: Count
    sha256: str


class Mark(CommitMark):
    """A commit mark with all that a scan keeps in it.

    Attributes:
        generation: how often failed images were tried again; later files have it in their names.
        files: what is in them, by folder and name.
        no_face, flag, review, passed: images by their answer; with `failed` they are all.
        retryable: failed images that another try may score.
        bundle_digest: of the bundle that scored.
    """

    generation: Count = 0
    files: dict[str, File]
    no_face: Count
    retryable: Count
    flag: Count
    review: Count
    passed: Annotated[Count, Field(alias="pass")]
    bundle_digest: str

    @property
    def paths(self) -> set[str]:
        """The shard's files, below the run's folder."""
        return {f"results/{name}" for name in self.results} | {f"errors/{name}" for name in self.errors}


def read_mark(folder: Path, shard: int) -> Mark | None:
    """Return a shard's commit mark, or None while it is not committed.

    Raises:
        RunBroken: the mark cannot be understood.
    """
    path = folder / "_stats" / mark_name(shard)
    try:
        return Mark.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        message = f"{path} is no commit mark of this release: delete it and the shard is scanned again"
        raise RunBroken(message) from error


def read_errors(folder: Path, mark: Mark) -> pa.Table:
    """Return the rows of the images that could not be scored.

    Raises:
        RunBroken: a file is gone or not what the mark says.
    """
    tables = [ERRORS.empty_table()]
    for name in mark.errors:
        path = folder / "errors" / name
        try:
            with pq.ParquetFile(path) as parquet:
                tables.append(parquet.read().cast(ERRORS))
        except (OSError, pa.ArrowException) as error:
            message = f"{path} cannot be read, though {mark_name(mark.shard)} names it: delete that mark in _stats"
            raise RunBroken(message) from error
    return pa.concat_tables(tables)


def select_retryable(errors: pa.Table) -> frozenset[int]:
    """Return the positions of the images that another try may score."""
    retryable = pa.array(sorted(RETRYABLE), pa.string())
    chosen = errors.filter(pc.is_in(errors["reason"].cast(pa.string()), retryable))
    return frozenset(chosen["position"].to_pylist())


def commit_shard(
    folder: Path, output: ShardOutput, before: Mark | None, *, started_at: datetime, bundle_digest: str
) -> Mark:
    """Publish a shard's files and then its mark; remove what it supersedes.

    Args:
        folder: the run's.
        output: the rows; with `before`, those of the images that were tried again.
        before: the shard's mark until now.
        started_at: when the work began.
        bundle_digest: of the bundle that scored.

    Raises:
        OSError: the disk is full, among others; the shard is then as committed as it was.
    """
    started_s = time.perf_counter()
    generation = before.generation + 1 if before else 0
    results, errors = output.results.to_table(), output.errors.to_table()
    counts = {name: output.counts[name] for name in COUNTS}
    stage_s = dict(output.stage_s)
    if before:
        old = read_errors(folder, before)
        answered = pa.concat_arrays([*results["position"].chunks, *errors["position"].chunks, pa.array([], pa.int32())])
        kept = old.filter(pc.invert(pc.is_in(old["position"], answered)))
        errors = pa.concat_tables([kept, errors])
        counts = _add_counts(before, counts, errors)
        stage_s = {name: before.stage_s.get(name, 0.0) + seconds for name, seconds in stage_s.items()}
    files: dict[str, File] = {path: file for path, file in before.files.items() if "results/" in path} if before else {}
    name = part_name(output.shard) if not generation else part_name(output.shard).replace(".", f".{generation}.")
    if len(results) or not before:
        files[f"results/{name}"] = _publish_table(folder / "results" / name, results, RESULTS)
    if len(errors):
        files[f"errors/{name}"] = _publish_table(folder / "errors" / name, errors, ERRORS)
    stage_s["write"] = stage_s.get("write", 0.0) + time.perf_counter() - started_s
    mark = Mark(
        shard=output.shard,
        generation=generation,
        results=tuple(Path(path).name for path in files if path.startswith("results/")),
        errors=tuple(Path(path).name for path in files if path.startswith("errors/")),
        files=files,
        started_at=before.started_at if before else started_at,
        finished_at=datetime.now(UTC),
        stage_s={stage: round(seconds, 4) for stage, seconds in stage_s.items()},
        bundle_digest=bundle_digest,
        **counts,
    )
    publish_json(folder / "_stats" / mark_name(output.shard), mark)
    superseded = {f"results/{name}", f"errors/{name}", *(before.paths if before else ())} - mark.paths
    for path in superseded:
        (folder / path).unlink(missing_ok=True)
    return mark


def publish_json(path: Path, content: BaseModel) -> None:
    """Publish a JSON file, and read it again before it is renamed."""
    text = content.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
    publish(
        path, lambda file: file.write(text), lambda partial: type(content).model_validate_json(partial.read_bytes())
    )


def _add_counts(before: Mark, counts: Mapping[str, int], errors: pa.Table) -> dict[str, int]:
    old = before.model_dump(by_alias=True)
    total = {name: old[name] + counts[name] for name in COUNTS}
    return total | {"images": before.images, "failed": len(errors), "retryable": len(select_retryable(errors))}


def _publish_table(path: Path, table: pa.Table, schema: pa.Schema) -> File:
    digests: list[str] = []

    def verify(partial: Path) -> None:
        with pq.ParquetFile(partial) as parquet:
            again = parquet.read()
        if again.num_rows != len(table) or not again.schema.equals(schema):
            message = f"{path} was not written as it should be: {again.num_rows} of {len(table)} rows read back"
            raise OSError(message)
        with partial.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())

    publish(path, lambda file: pq.write_table(table, file, compression="zstd"), verify)
    return File(rows=len(table), sha256=digests[0])
