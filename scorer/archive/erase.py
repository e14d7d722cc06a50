"""Erases images from a finished run: their rows, features, labels, faces in the report, and entries of the plan.

Each shard is rewritten as a retry rewrites it: new files, then its mark, then the old files are removed. So each shard
is erased whole or not at all, and the same call after a kill does the rest. Until it ends the run has no report.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scorer.archive.calibration.labels import LABEL_FILE
from scorer.archive.claims import Claim
from scorer.archive.cleanup import remove_uncommitted_files
from scorer.archive.commit import finish_run, publish_table, select_retryable
from scorer.archive.folder import is_partial, mark_name, part_name, publish_json, utf8_path
from scorer.archive.marks import CommitMark, PartFile, list_committed, read_mark
from scorer.archive.run import RunFile, read_run
from scorer.archive.source.plan import erase_items
from scorer.errors import CannotCommit, RunBroken, UsageError
from scorer.files import replace_file

_REPORT = ("_SUCCESS", "report.html", "summary.json")


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased: the ids that were found, and how many rows and features they had."""

    found: frozenset[str]
    rows: int


def erase_images(folder: Path, content_ids: Collection[str], report: Callable[[Path], object]) -> Erasure:
    """Erase the images with these ids from the run in `folder`, and write its report again.

    Raises:
        UsageError: `folder` is not a finished run.
        RunBroken: a mark or a file is not valid.
        CannotCommit: another process works on a shard.
        OSError: the folder cannot be written; what was erased before stays erased.
    """
    run, ids = read_run(folder), frozenset(content_ids)
    if missing := run.shards - len(list_committed(folder)):
        message = f"{folder} is not a finished run, {missing} shards are missing: finish the scan, then erase"
        raise UsageError(message)
    for name in _REPORT:
        (folder / name).unlink(missing_ok=True)
    shards = range(run.shards)
    remove_uncommitted_files(folder, shards)
    found, rows = set[str](), 0
    for shard in shards:
        ids_here = _find_ids(folder, _require_mark(folder, shard), ids)
        if ids_here:
            _erase_labels(folder, _require_mark(folder, shard), ids_here)
            rows += _erase_shard(folder, shard, ids_here)
            found |= ids_here
    found |= erase_items(folder / "_plan", ids)
    found |= _erase_sources(folder, run, ids)
    for place in (folder, folder / "_plan"):  # a killed process may have left the old text
        for path in filter(is_partial, place.glob(".*")):
            path.unlink(missing_ok=True)
    finish_run(folder, run.shards, report)
    return Erasure(frozenset(found), rows)


def _require_mark(folder: Path, shard: int) -> CommitMark:
    mark = read_mark(folder, shard)
    if mark is None:
        message = f"{folder / '_stats' / mark_name(shard)} was removed meanwhile: finish the scan, then erase"
        raise RunBroken(message)
    return mark


def _find_ids(folder: Path, mark: CommitMark, ids: frozenset[str]) -> set[str]:
    wanted, found = pa.array(sorted(ids), pa.string()), set[str]()
    for kind, files in (("results", mark.results), ("errors", mark.errors)):
        for name in files:
            column = _read(folder / kind / name, ["content_id"])["content_id"]
            found.update(column.filter(pc.is_in(column, wanted)).to_pylist())
    return found


def _erase_labels(folder: Path, mark: CommitMark, ids: set[str]) -> None:
    """Remove the labels of images from the file of `unlensed review`, before the rows that name their results."""
    path = folder / LABEL_FILE
    if not path.exists():
        return
    tables = [_read(folder / "results" / name, ["content_id", "result_id"]) for name in mark.results]
    gone = {row["result_id"] for table in tables for row in table.to_pylist() if row["content_id"] in ids}
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["result_id"] not in gone]
    if len(kept) < len(lines):
        replace_file(path, b"".join(kept))


def _erase_shard(folder: Path, shard: int, ids: set[str]) -> int:
    """Return how many rows were removed."""
    claim = Claim.acquire(folder / "_attempts", shard)
    if claim is None:
        message = f"another process works on shard {shard} of {folder}: run the same command again when it has ended"
        raise CannotCommit(message)
    try:
        return _rewrite(folder, _require_mark(folder, shard), ids)
    finally:
        claim.release()


def _rewrite(folder: Path, mark: CommitMark, ids: set[str]) -> int:
    files: dict[str, Mapping[str, PartFile]] = {
        "results": mark.results,
        "errors": mark.errors,
        "features": mark.features,
    }
    tables = {kind: [_read(folder / kind / name) for name in names] for kind, names in files.items()}
    wanted = pa.array(sorted(ids), pa.string())
    positions = pa.array(
        {
            position
            for kind in ("results", "errors")
            for table in tables[kind]
            for position in table.filter(pc.is_in(table["content_id"], wanted))["position"].to_pylist()
        },
        pa.int32(),
    )
    name, removed = part_name(mark.shard, mark.generation + 1), 0
    named: dict[str, Mapping[str, PartFile]] = dict(files)
    counts: Counter[str] = Counter()
    retryable = mark.retryable
    try:
        for kind, parts in tables.items():
            if not parts:
                continue
            whole = pa.concat_tables(parts, promote_options="default")
            gone = pc.is_in(whole["position"], positions)
            erased, kept = whole.filter(gone), _forget_words(whole.filter(pc.invert(gone)))
            if not len(erased):
                continue
            removed += len(erased)
            counts += _count_images(kind, erased)
            if kind == "errors":  # some of these rows cannot be retried, so that this is an upper limit
                retryable = min(retryable, len(select_retryable(kept)))
            named[kind] = {}
            if len(kept) or kind == "results":
                named[kind] = {name: publish_table(folder / kind / name, kept, kept.schema)}
        left = {key: value - counts[key] for key, value in mark.counts.items() if key != "retryable"}
        left["passed"] = left.pop("pass")
        changes = {**named, **left, "retryable": retryable, "generation": mark.generation + 1}
        publish_json(folder / "_stats" / mark_name(mark.shard), mark.model_copy(update=changes))
    finally:
        # The mark on disk decides, as in a commit.
        current = _require_mark(folder, mark.shard).paths
        for path in {*mark.paths, *(f"{kind}/{name}" for kind in files)} - current:
            (folder / path).unlink(missing_ok=True)
    return removed


def _count_images(kind: str, rows: pa.Table) -> Counter[str]:
    """Return what `rows` contributed to the counts of their mark."""
    if kind == "features":
        return Counter()
    if kind == "errors":
        return Counter(images=len(rows), failed=len(rows))
    decisions = dict(zip(rows["position"].to_pylist(), rows["decision"].to_pylist(), strict=True))
    outcomes = Counter(decision or "no_face" for decision in decisions.values())
    return outcomes + Counter(images=len(decisions), faces=len(rows) - rows["face_id"].null_count)


def _forget_words(table: pa.Table) -> pa.Table:
    """Return the table with dictionaries of only the words that its rows contain; a filter keeps all."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            words = table[index].cast(field.type.value_type)
            table = table.set_column(index, field, pc.dictionary_encode(words).cast(field.type))
    return table


def _erase_sources(folder: Path, run: RunFile, ids: frozenset[str]) -> set[str]:
    """Rename the sources of a run that are erased images: a scan may be given single files."""
    found: set[str] = set()
    sources = []
    for source in run.sources:
        names = {source}
        with suppress(ValueError):  # a URI is no absolute path
            names.add(Path(source).as_uri())
        found |= names & ids
        sources.append("(erased)" if names & ids else source)
    if found:
        publish_json(folder / "run.json", run.model_copy(update={"sources": tuple(sources)}))
    return found


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(utf8_path(path)) as parquet:
            return parquet.read(columns)
    except (OSError, pa.ArrowException) as error:
        message = f"{path} cannot be read, though its mark in _stats names it: {error}"
        raise RunBroken(message) from error
