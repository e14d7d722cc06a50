"""The same scan on Ray Data: one row a shard, a pool of actors with one scorer each. Only this module imports `ray`.

Every node must see the run's folder under the same path (NFS, a mounted bucket), because actors commit their shards
themselves, as processes without Ray do. A run can start on one engine and finish on the other. An actor's stages are
empty between two shards. Ray restarts dead actors, and `scorer.archive.claims` finds the image that kills them.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from scorer.archive.marks import COUNTS
from scorer.archive.session import Session
from scorer.errors import ArchiveUnavailable, CannotCommit, PayloadUnavailable
from scorer.local_scorer import LocalScorer

ShardBatch = dict[str, NDArray[Any]]


class ShardScorer:
    """An actor with one scorer; it scans and commits one shard a call.

    Args:
        session: the run; every actor must see the same folder.
        retry_failed: see `Scan.run`.
    """

    def __init__(self, session: Session, retry_failed: bool) -> None:  # noqa: FBT001 - Ray passes by position
        self._session, self._retry_failed = session, retry_failed
        self._scorer = LocalScorer(session.settings)

    def __call__(self, batch: ShardBatch) -> ShardBatch:
        """Scan the one shard of `batch`; return its counts, and the error that ended it, as columns of one row."""
        shard, failure = int(batch["shard"][0]), ""
        scan = self._session.open_scan(self._scorer)
        try:
            scan.run([shard], retry_failed=self._retry_failed)
        except (ArchiveUnavailable, CannotCommit, PayloadUnavailable) as error:
            failure = str(error)
        columns = {name: np.array([scan.progress.counts[name]]) for name in COUNTS}
        return columns | {"shard": np.array([shard]), "failure": np.array([failure])}


def scan_on_ray(session: Session, shards: Sequence[int], *, retry_failed: bool) -> Iterator[dict[str, Any]]:
    """Scan `shards` on the cluster that `RAY_ADDRESS` names, or on this machine; yield each shard's counts at its end.

    Raises:
        ArchiveUnavailable: an actor could not read the archive or write to the run's folder; other shards are
            committed.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the command has its own
    initialized_here = not ray.is_initialized()
    if initialized_here:
        # One CPU more than exists: Ray Data's own tasks need one, and without it the scan would deadlock.
        local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": session.settings.threads + 1}
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, **local)
    resources = ray.cluster_resources()
    free_cpus = max(1, int(resources["CPU"]) - 1)
    gpus = int(resources.get("GPU", 0))
    cpus = max(1, free_cpus // gpus) if gpus else min(session.settings.threads, free_cpus)
    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=max(1, len(shards)))
    done = rows.map_batches(
        ShardScorer,
        fn_constructor_args=(session, retry_failed),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=gpus or max(1, free_cpus // cpus)),
        num_cpus=cpus,
        num_gpus=1 if gpus else 0,
    )
    failures = []
    try:
        for row in done.iter_rows():
            if row["failure"]:
                failures.append(row["failure"])
            else:
                yield row
    finally:
        if initialized_here:
            ray.shutdown()
    if failures:
        message = f"{len(failures)} shards are not committed, all others are; the first failed because {failures[0]}"
        raise ArchiveUnavailable(message)
