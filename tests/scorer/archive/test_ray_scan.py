"""The same run on Ray: a real local cluster, if Ray is installed."""

from pathlib import Path

import pytest

from scorer.archive.session import join_run
from scorer.archive.source.sources import Archive
from scorer.local_scorer import LocalScorer
from tests.scorer.archive.killed_scan import read_images
from tests.scorer.archive.list_plan import make_archive

pytest.importorskip("ray", reason="Ray is not installed: pip install unlensed[archive]")


def test_ray_resumes_a_run_of_a_process(tmp_path: Path, portrait: bytes, local_scorer: LocalScorer) -> None:
    """A run that starts without Ray and finishes on Ray has the rows of a run without Ray."""
    from scorer.archive.ray_scan import scan_on_ray  # noqa: PLC0415 - skipped above without Ray

    archive = Archive((str(make_archive(tmp_path / "photographs", portrait, 12)),))
    settings = local_scorer.settings
    whole, run = (
        join_run(tmp_path / name, archive, settings, shard_images=4, faces_digest=None, first=True, new_run=False)
        for name in ("whole", "run")
    )
    whole.open_scan(local_scorer).run(range(3))
    run.open_scan(local_scorer).run([1])
    done = list(scan_on_ray(run, range(3), retry_failed=False))
    assert sorted((row["shard"], row["images"]) for row in done) == [(0, 4), (1, 0), (2, 4)]
    assert run.finish(range(3)).missing == 0
    assert (run.folder / "_SUCCESS").exists()
    assert read_images(run.folder) == read_images(whole.folder)
