"""What `fit` tells while it works: a line that changes on a terminal, JSON lines elsewhere."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from training.mixture.em import EmProgress
from training.mixture.fit import Report

INTERVAL_S = 10.0


@contextmanager
def show_fits(console: Console) -> Iterator[Report]:
    """Yield what `choose_mixture` reports to; `console` should be the one on stderr."""
    if console.is_terminal:
        with console.status("fitting") as status:
            yield lambda name, progress: status.update(
                f"fitting {name}: iteration {progress.iteration}, {progress.bound_nats:.3f} nats per face"
            )
        return
    told = -INTERVAL_S

    def tell(name: str, progress: EmProgress) -> None:
        nonlocal told
        if time.monotonic() - told >= INTERVAL_S:
            told = time.monotonic()
            line = {"fitting": name, "iteration": progress.iteration, "bound_nats": round(progress.bound_nats, 4)}
            console.print(json.dumps(line), soft_wrap=True, markup=False, highlight=False)

    yield tell
