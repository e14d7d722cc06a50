"""Times on the device, and the ceilings for rates: dense products and copies, measured in the same run."""

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from ingest.device import Kind

WARM_UP_S, WARM_UP_ROUNDS = 0.3, 3
GEMM_SIDE = {"cuda": 8192, "cpu": 1024}
# The half-precision ceiling: FP16 on a GPU; on a CPU, which has no units for it, BF16.
HALF = {"cuda": torch.float16, "cpu": torch.bfloat16}


def time_device(work: Callable[[], object], device: Kind, rounds: int = 9, calls: int = 1) -> float:
    """Return the median seconds of one call of `work`, by the device's clock, after a warm-up.

    Args:
        work: queues its kernels on the default or torch's current stream; it need not wait for them.
        device: "cuda", or "cpu" for the wall clock and few rounds.
        rounds: how many times are taken.
        calls: within one time, back to back: short work is then timed at the pace at which it can be queued.
    """
    if device == "cpu":
        work()
        return time_wall(work, device, 3)
    warm_up(work, device)
    marks = []
    for _ in range(rounds):
        marks.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
        marks[-1][0].record()
        for _ in range(calls):
            work()
        marks[-1][1].record()
    torch.cuda.synchronize()
    return float(np.median([start.elapsed_time(end) for start, end in marks])) / 1000 / calls


def time_wall(work: Callable[[], object], device: Kind, rounds: int = 5) -> float:
    """Return the median seconds of `work` by the wall clock, with empty queues of the device before and after."""
    times = []
    for _ in range(rounds):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def warm_up(work: Callable[[], object], device: Kind) -> None:
    """Run `work` until modules are loaded and clocks have risen."""
    started = time.perf_counter()
    for _ in range(WARM_UP_ROUNDS):
        work()
    synchronise(device)
    while device == "cuda" and time.perf_counter() - started < WARM_UP_S:
        work()
        synchronise(device)


def synchronise(device: Kind) -> None:
    """Wait for all work on the device, on every stream."""
    if device == "cuda":
        torch.cuda.synchronize()


@cache
def measure_gemm(device: Kind, dtype: torch.dtype) -> float:
    """Return the FLOP/s of one large dense product of random numbers; FP32 is true FP32, without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    side = GEMM_SIDE[device]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / time_device(lambda: torch.matmul(left, right, out=out), device)


@cache
def measure_copy(device: Kind) -> float:
    """Return bytes per second, read and written, of one large copy within the device's memory."""
    source = torch.randint(0, 255, (2**30 if device == "cuda" else 2**26,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / time_device(lambda: target.copy_(source), device)
