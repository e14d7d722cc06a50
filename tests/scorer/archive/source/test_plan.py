"""The plan: every image exactly once, the same for every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer.archive.source.estimate import SAMPLED_IMAGES, estimate_archive
from scorer.archive.source.plan import open_plan, write_plan
from scorer.archive.source.sources import Archive
from scorer.errors import SourceChanged, SourceDamaged, UsageError
from tests.scorer.archive.source.archives import LIMIT, NOTHING, fill, list_items, make_tar, plan

NAME = st.text("abä% #", min_size=1, max_size=3)
COUNT = st.integers(0, 9)


@settings(max_examples=25)
@given(
    files=st.sets(st.tuples(NAME, NAME), min_size=1, max_size=12),
    tars=st.lists(COUNT.filter(bool), max_size=3),
    rows=st.lists(COUNT, max_size=4),
    shard_images=st.integers(1, 5),
    processes=st.integers(1, 5),
)
def test_every_image_is_planned_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    files: set[tuple[str, str]],
    tars: list[int],
    rows: list[int],
    shard_images: int,
    processes: int,
) -> None:
    """Of sources that overlap, the shards of all processes have each image exactly once."""
    folder = tmp_path_factory.mktemp("archive")
    expected = set()
    for first, second in files:
        fill(folder / "in", {f"{first}/{second}.jpg": f"file {first}/{second}".encode()})
        expected.add(f"file {first}/{second}".encode())  # a slash, because names may contain blanks
    for number, images in enumerate(tars):
        members = [(f"{n}.png", f"tar {number} {n}".encode()) for n in range(images)]
        fill(folder, {f"t-{number}.tar": make_tar(members)})
        expected |= {data for _, data in members}
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(folder / "r.parquet", schema) as writer:
        for number, images in enumerate([1, *rows]):
            data = [f"row {number} {n}".encode() for n in range(images)]
            writer.write_table(pa.table({"image": [*data, None]}, schema=schema), row_group_size=images + 1)
            expected |= set(data)
    sources = [folder / "in", folder / "r.parquet", folder / "in" / "*", folder / "r.*"]
    sources += [f"{folder}/t-{{0..{len(tars) - 1}}}.tar", folder / "t-0.tar"] if tars else []
    stored, facts = plan(folder / "_plan", *sources, shard_images=shard_images, bytes_column="image")
    access = stored.grant_access(NOTHING)
    found: list[bytes] = []
    for process in range(processes):
        for index in range(process, stored.shard_count, processes):
            shard = stored.read_shard(index)
            items = list(stored.read_items(shard))
            assert shard.images in {None, len(items)}
            found.extend(access.read(item.uri) if item.data is None else item.data for item in items)
    assert sorted(found) == sorted(expected)
    assert facts.shards == stored.shard_count
    assert (facts.images, facts.uncounted) == (len(expected) - sum(tars), len(tars))
    assert facts.imageless_rows == len(rows) + 1
    assert facts.duplicates >= len(files) + (1 if tars else 0) + 1


def test_a_plan_is_reproducible(tmp_path: Path) -> None:
    """Planning twice and a dry run agree; one more image changes the digest."""
    fill(tmp_path / "in", {f"{n % 3}/{n}.jpg": b"x" for n in range(10)})
    first, facts = plan(tmp_path / "p1", tmp_path / "in")
    second, again = plan(tmp_path / "p2", tmp_path / "in")
    assert facts == again
    assert list_items(first) == list_items(second)
    dry = estimate_archive(Archive((str(tmp_path / "in"),)), NOTHING, 4, LIMIT)
    assert (dry.facts, dry.tar_images, dry.images) == (facts, 0, 10)
    fill(tmp_path / "in", {"3/new.jpg": b"x"})
    assert plan(tmp_path / "p1", tmp_path / "in")[1].digest != facts.digest


def test_images_are_grouped_and_ordered(tmp_path: Path) -> None:
    """Images are sorted; their group is the first folder below the source, or the tar."""
    fill(tmp_path / "in", {"b/x/1.jpg": b"", "a/2.JPEG": b"", "c.png": b"", "a/notes.txt": b"", "a/b.tar": b""})
    fill(tmp_path, {"t.tar": make_tar([("z/1.jpg", b"")])})
    stored, facts = plan(tmp_path / "_plan", tmp_path / "in", tmp_path / "t.tar", shard_images=100)
    found = [(Path(item.content_id).name, item.source) for item in list_items(stored)]
    assert found == [("1.jpg", "t.tar"), ("2.JPEG", "a"), ("1.jpg", "b"), ("c.png", "in")]
    assert (facts.images, facts.image_bytes, facts.uncounted_bytes) == (3, 0, 10240)


def test_an_incomplete_plan_is_refused(tmp_path: Path) -> None:
    """A missing, unfinished or newer plan and an invalid index are refused."""
    fill(tmp_path / "in", {"1.jpg": b""})
    with pytest.raises(UsageError, match="no complete plan"):
        open_plan(tmp_path / "_plan", LIMIT)
    stored, _ = plan(tmp_path / "_plan", tmp_path / "in")
    for index in (-1, 1):
        with pytest.raises(IndexError, match="1 shards"):
            stored.read_shard(index)
    with pytest.raises(UsageError, match="does not exist"):
        write_plan(tmp_path / "_plan", Archive((str(tmp_path / "missing"),)), NOTHING, 4)
    assert open_plan(tmp_path / "_plan", LIMIT).shard_count == 1  # a mistyped source leaves the old plan intact
    fill(tmp_path, {"bad.csv": b'uri\n1.jpg\n"x"y\n'})
    with pytest.raises(SourceDamaged, match="not valid CSV"):
        plan(tmp_path / "_plan", tmp_path / "bad.csv", uri_column="uri")
    with pytest.raises(UsageError, match="no complete plan"):
        open_plan(tmp_path / "_plan", LIMIT)
    assert sorted(path.name for path in (tmp_path / "_plan").iterdir()) == ["items.parquet", "shards.parquet"]
    (tmp_path / "_plan" / "plan.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(UsageError, match="version 99"):
        open_plan(tmp_path / "_plan", LIMIT)


@pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
@pytest.mark.parametrize("change", ["gone", "grown", "touched", "folder"])
def test_a_changed_container_is_reported(tmp_path: Path, name: str, change: str) -> None:
    """A tar or manifest that was removed, extended or rewritten after the plan is not read."""
    path = tmp_path / name
    path.write_bytes(make_tar([("1.jpg", b"1")]))
    if name == "a.parquet":
        pq.write_table(pa.table({"image": [b"1"]}), path)
    stored, _ = plan(tmp_path / "_plan", path, bytes_column="image" if name == "a.parquet" else None)
    assert [item.data for item in list_items(stored)] == [b"1"]
    if change == "grown":
        path.write_bytes(path.read_bytes() + bytes(512))
    elif change == "touched":
        os.utime(path, (1, 1))
    else:
        path.unlink()
    if change == "folder":
        path.mkdir()
    with pytest.raises(SourceChanged, match="start a new run"):
        list_items(stored)


def test_a_tar_that_changes_while_it_is_read_is_reported(tmp_path: Path) -> None:
    """The change is reported after the last image at the latest."""
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar([(f"{n}.jpg", b"old") for n in range(5)]))
    stored, _ = plan(tmp_path / "_plan", path)
    items = stored.read_items(stored.read_shard(0))
    assert next(items).data == b"old"
    with path.open("r+b") as file:
        file.write(make_tar([(f"{n}.jpg", b"new") for n in range(6)]))
    with pytest.raises(SourceChanged):
        list(items)


def test_a_dry_run_estimates_tars_from_their_first_members(tmp_path: Path) -> None:
    """A small tar is counted, a long one estimated; empty and damaged ones raise nothing."""
    fill(tmp_path, {f"{n}.tar": make_tar([(f"{i}.jpg", bytes(600)) for i in range(100)]) for n in range(2)})
    archive = Archive((f"{tmp_path}/*.tar",))
    assert estimate_archive(archive, NOTHING, 9, LIMIT).tar_images == 200
    fill(tmp_path, {"0.tar": make_tar([(f"{i}.jpg", bytes(600)) for i in range(1000)])})
    assert estimate_archive(archive, NOTHING, 9, LIMIT).tar_images == pytest.approx(1100, rel=0.05)
    fill(tmp_path, {"0.tar": make_tar([]), "1.tar": b"damaged" * 100})
    assert estimate_archive(archive, NOTHING, 9, LIMIT).tar_images is None


def test_a_sample_represents_the_archive(tmp_path: Path) -> None:
    """The sample is small, and has lists and tars in proportion, each image once."""
    fill(tmp_path / "in", {f"{n:04}.jpg": b"x" for n in range(300)})
    fill(tmp_path, {f"{n}.tar": make_tar([(f"{i}.jpg", b"x") for i in range(20)]) for n in range(5)})
    dry = estimate_archive(Archive((f"{tmp_path}/in", f"{tmp_path}/*.tar")), NOTHING, 50, LIMIT)
    found = [item.content_id for item in dry.read_sample()]
    assert len(found) == len(set(found)) == SAMPLED_IMAGES
    listed = [int(Path(name).stem) for name in found if "/in/" in name]
    assert len(listed) == SAMPLED_IMAGES * 300 // 400
    assert min(listed) < 100
    assert max(listed) >= 200


MEASURE = """
import resource, sys
from pathlib import Path
from scorer.archive.source.plan import open_plan, write_plan
from scorer.archive.source.sources import Archive
from scorer.settings import PayloadSettings
folder = Path(sys.argv[1])
archive = Archive((str(folder / "in"), str(folder / "list.csv")), uri_column="uri")
write_plan(folder / "_plan", archive, PayloadSettings(), 100)
plan = open_plan(folder / "_plan", 1000)
images = sum(1 for index in range(plan.shard_count) for _ in plan.read_items(plan.read_shard(index)))
print(images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_archive(tmp_path: Path, root: Path) -> None:
    """20,000 images in folders and a manifest take as much memory as 2,000."""
    peaks = []
    for images in (2_000, 20_000):
        folder = tmp_path / str(images)
        for n in range(images // 2):
            if n % 500 == 0:
                (folder / "in" / str(n)).mkdir(parents=True)
            (folder / "in" / str(n // 500 * 500) / f"{n}.jpg").touch()
        (folder / "list.csv").write_text("uri\n" + "".join(f"folder/{n}.jpg\n" for n in range(images // 2)))
        command = [sys.executable, "-c", MEASURE, str(folder)]
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        counted, peak = map(int, run.stdout.split())
        assert counted == images
        peaks.append(peak)
    assert peaks[1] < 1.05 * peaks[0]


def test_a_plan_of_an_older_release_is_read(tmp_path: Path) -> None:
    """A plan without the field `ignored` and the column `problem` can be opened."""
    fill(tmp_path, {"in/1.jpg": b"1", "in/notes.txt": b""})
    (tmp_path / "in" / "self.jpg").symlink_to("self.jpg")
    folder = tmp_path / "_plan"
    items = list_items(plan(folder, tmp_path / "in")[0])
    head = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    assert head["facts"].pop("ignored") == {"not_images": 1}
    (folder / "plan.json").write_text(json.dumps(head), encoding="utf-8")
    pq.write_table(pq.read_table(folder / "items.parquet").drop_columns(["problem"]), folder / "items.parquet")
    stored = open_plan(folder, LIMIT)
    assert list_items(stored) == items
    assert stored.facts.left_out == {}
