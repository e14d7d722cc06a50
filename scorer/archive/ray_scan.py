"""The same scan on Ray Data: one row a shard, a pool of actors with one scorer each. The sole importer of `ray`.

Every node must see the run's folder under the same path (NFS, a mounted bucket), because actors commit their shards
themselves, as processes without Ray do; a run may even be begun with the one and finished with the other. A shard is
the unit: between two of them an actor's stages drain. Ray starts dead actors again, and `scorer.archive.claims`
finds the image that kills them.
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

Batch = dict[str, NDArray[Any]]


class ShardScorer:
    """An actor: one scorer, which scans one shard a call and commits it.

    Args:
        session: the run; its folder must be the same one here.
        retry_failed: see `Scan.run`.
    """

    def __init__(self, session: Session, retry_failed: bool) -> None:  # noqa: FBT001 - Ray passes by place
        self._session, self._retry_failed = session, retry_failed
        self._scorer = LocalScorer(session.settings)

    def __call__(self, batch: Batch) -> Batch:
        """Scan the one shard of `batch`; return its counts, and what ended it early, as columns of one row."""
        shard, obstacle = int(batch["shard"][0]), ""
        scan = self._session.open_scan(self._scorer)
        try:
            scan.run([shard], retry_failed=self._retry_failed)
        except (ArchiveUnavailable, CannotCommit, PayloadUnavailable) as error:
            obstacle = str(error)
        columns = {name: np.array([scan.progress.counts[name]]) for name in COUNTS}
        return columns | {"shard": np.array([shard]), "obstacle": np.array([obstacle])}


def scan_on_ray(session: Session, shards: Sequence[int], *, retry_failed: bool) -> Iterator[dict[str, Any]]:
    """Scan `shards` on the cluster that `RAY_ADDRESS` names, or on this machine; yield each one's counts when it ends.

    Raises:
        Outage: an actor could not read the archive, or not write to the run's folder; other shards are committed.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the command has its own
    begun_here = not ray.is_initialized()
    if begun_here:
        # One CPU more than there are: Ray Data's own tasks need one, and with none left for them all would wait.
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
    obstacles = []
    try:
        for row in done.iter_rows():
            if row["obstacle"]:
                obstacles.append(row["obstacle"])
            else:
                yield row
    finally:
        if begun_here:
            ray.shutdown()
    if obstacles:
        message = f"{len(obstacles)} shards are not committed, all others are; the first: {obstacles[0]}"
        raise ArchiveUnavailable(message)
