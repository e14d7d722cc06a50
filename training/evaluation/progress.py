"""Progress of the long parts: a bar on a terminal, one line a part with its seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[], None]


@contextmanager
def track(console: Console, label: str, total: int) -> Iterator[Advance]:
    """Yield what to call after each of `total` pieces of a part."""
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda: progress.advance(task)
    console.print(f"{label}: {total} in {time.monotonic() - started:.0f} s", highlight=False)
