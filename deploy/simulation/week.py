"""A week of traffic against the arithmetic of the chart's ScaledObject: how many workers, how long requests wait.

    helm template unlensed deploy/helm --values deploy/helm/ci/shadow-values.yaml > rendered.yaml
    python deploy/simulation/week.py rendered.yaml deploy/helm/week.svg

What decides is copied from what runs in a cluster: the autoscaler's formula with its tolerance, windows and policies
(every 15 s), KEDA's cap and fallback, partitions that belong to one worker each, workers that take a while to start,
and partitions that a worker leaves behind until the group's session ends. The traffic is made up: days, nights, a
weekend, a rush above what all workers can do, and an hour in which KEDA cannot ask the broker.
"""

import math
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

STEP_S = 15
DAY_S = 86_400
WEEK_S = 7 * DAY_S
TOLERANCE = 0.1  # within which the autoscaler leaves things as they are
START_S = 60  # from a pod's creation to its first record: schedule, verify, load, join
SESSION_S = 45  # settings.kafka.session_timeout_s
RUSH = (5 * DAY_S + 20 * 3600, 1800)  # Saturday evening: when, for how long
BLIND = (3 * DAY_S + 10 * 3600, 3600)  # Thursday morning: KEDA has no figures


@dataclass(frozen=True)
class Scaling:
    """What the ScaledObject says, and what one worker does in images/s."""

    least: int
    most: int
    threshold: int
    partitions: int
    rate: float
    up_percent: int
    up_period_s: int
    down_window_s: int
    down_pods: int
    down_period_s: int
    fallback: int
    fallback_keeps: bool

    @classmethod
    def of(cls, documents: list[dict[str, Any]], rate: float) -> "Scaling":
        """Read the ScaledObject of the workers and the topic of their requests from a rendered chart."""
        spec = next(each["spec"] for each in documents if each["kind"] == "ScaledObject")
        topic = spec["triggers"][0]["metadata"]["topic"]
        topics = [each["spec"] for each in documents if each["kind"] == "KafkaTopic"]
        behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        (up,), (down,) = behaviour["scaleUp"]["policies"], behaviour["scaleDown"]["policies"]
        return cls(
            least=spec["minReplicaCount"],
            most=spec["maxReplicaCount"],
            threshold=int(spec["triggers"][0]["metadata"]["lagThreshold"]),
            partitions=next(each["partitions"] for each in topics if each["topicName"] == topic),
            rate=rate,
            up_percent=up["value"],
            up_period_s=up["periodSeconds"],
            down_window_s=behaviour["scaleDown"]["stabilizationWindowSeconds"],
            down_pods=down["value"],
            down_period_s=down["periodSeconds"],
            fallback=spec["fallback"]["replicas"],
            fallback_keeps=spec["fallback"]["behavior"] == "currentReplicasIfHigher",
        )


@dataclass
class Week:
    """What happened, one entry a step."""

    arrivals: list[float] = field(default_factory=list)  # images/s
    replicas: list[int] = field(default_factory=list)
    backlog: list[float] = field(default_factory=list)  # images
    wait_s: list[float] = field(default_factory=list)  # of the partition that waits longest


def traffic(second: int, scaling: Scaling, noise: random.Random) -> float:
    """Return images/s: quiet at five in the morning, busy at five in the afternoon, busier at the weekend."""
    full = scaling.rate * scaling.most
    hour = second % DAY_S / 3600
    daily = 0.5 - 0.5 * math.cos(2 * math.pi * (hour - 5) / 24)
    weekend = 1.15 if second // DAY_S >= 5 else 1.0  # noqa: PLR2004 - Saturday
    rate = full * (0.07 + 0.55 * daily) * weekend * noise.gauss(1, 0.05)
    if RUSH[0] <= second < sum(RUSH):
        rate = 1.3 * full
    return max(0.0, rate)


class Autoscaler:
    """The HorizontalPodAutoscaler that KEDA makes, for one metric of type AverageValue."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self._advice: deque[tuple[int, int]] = deque()
        self._changes: deque[tuple[int, int]] = deque()

    def decide(self, second: int, current: int, lag: float | None) -> int:
        """Return how many replicas there shall be; `lag` is None while nobody knows it."""
        scaling = self._scaling
        if lag is None:
            advice = max(scaling.fallback, current) if scaling.fallback_keeps else scaling.fallback
        else:
            capped = min(lag, scaling.partitions * scaling.threshold)  # allowIdleConsumers: false
            ratio = capped / (scaling.threshold * current)
            advice = current if abs(ratio - 1) <= TOLERANCE else math.ceil(capped / scaling.threshold)
        advice = min(max(advice, scaling.least), scaling.most)
        self._advice.append((second, advice))
        while self._advice[0][0] <= second - scaling.down_window_s:
            self._advice.popleft()
        wanted = max(advice, min(current, max(each for _, each in self._advice)))
        added = sum(max(0, n) for at, n in self._changes if at > second - scaling.up_period_s)
        taken = sum(max(0, -n) for at, n in self._changes if at > second - scaling.down_period_s)
        ceiling = math.ceil((current - added) * (1 + scaling.up_percent / 100))
        floor = current + taken - scaling.down_pods
        wanted = min(wanted, max(ceiling, current)) if wanted > current else max(wanted, min(floor, current))
        if wanted != current:
            self._changes.append((second, wanted - current))
            while self._changes[0][0] < second - max(scaling.up_period_s, scaling.down_period_s):
                self._changes.popleft()
        return wanted


def simulate(scaling: Scaling, seed: int = 7) -> Week:
    """Live through the week in steps of 15 s."""
    noise, week, autoscaler = random.Random(seed), Week(), Autoscaler(scaling)  # noqa: S311 - no secret
    backlog = [0.0] * scaling.partitions
    replicas, working = scaling.least, scaling.least
    starting: deque[tuple[int, int]] = deque()  # ready at, how many there are then
    orphaned_until, orphans = 0, 0
    for second in range(0, WEEK_S, STEP_S):
        rate = traffic(second, scaling, noise)
        while starting and starting[0][0] <= second:
            working = starting.popleft()[1]
        owned = scaling.partitions - (orphans if second < orphaned_until else 0)
        shares = [range(worker, owned, working) for worker in range(working)]
        for partition in range(scaling.partitions):
            backlog[partition] += rate * STEP_S / scaling.partitions
        for mine in shares:
            held = sum(backlog[partition] for partition in mine)
            kept = max(0.0, 1 - scaling.rate * STEP_S / held) if held else 0.0
            for partition in mine:
                backlog[partition] *= kept
        blind = BLIND[0] <= second < sum(BLIND)
        wanted = autoscaler.decide(second, replicas, None if blind else sum(backlog))
        if wanted > replicas:
            starting.append((second + START_S, wanted))
        elif wanted < replicas:
            orphans = math.ceil(scaling.partitions / replicas) * (replicas - wanted)
            orphaned_until = second + SESSION_S
            working = min(working, wanted)
            starting = deque((at, min(count, wanted)) for at, count in starting)
        replicas = wanted
        week.arrivals.append(rate)
        week.replicas.append(replicas)
        week.backlog.append(sum(backlog))
        fair = rate / scaling.partitions
        week.wait_s.append(max(backlog) / fair if fair else 0.0)
    return week


def calm(second: int) -> bool:
    """Say whether this is neither the rush and the hour after it, nor the blind hour and the hour after it."""
    return all(not start <= second < start + length + 3600 for start, length in (RUSH, BLIND))


def draw(week: Week, scaling: Scaling, path: Path) -> None:
    """Draw replicas and backlog as an SVG, one point every half hour: the worst of them."""
    import matplotlib as mpl  # noqa: PLC0415 - only drawing needs it

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "week", "svg.fonttype": "none", "font.size": 8, "axes.spines.top": False})
    from matplotlib import pyplot as plt  # noqa: PLC0415

    every = 1800 // STEP_S
    spans = range(0, len(week.replicas), every)
    days = [start * STEP_S / DAY_S for start in spans]

    def worst(series: list[float] | list[int]) -> list[float]:
        return [float(f"{max(series[start : start + every]):.3g}") for start in spans]

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 4), sharex=True, height_ratios=(3, 2))
    arrivals = [value / scaling.rate for value in worst(week.arrivals)]
    above.fill_between(days, arrivals, color="#c8d6e5", linewidth=0, label="traffic, in workers' worth")
    above.step(days, worst(week.replicas), color="#222f3e", linewidth=1, where="post", label="workers")
    above.axhline(scaling.most, color="#999999", linewidth=0.6, linestyle=":")
    above.set_ylabel(f"workers (1 = {scaling.rate:g} images/s)")
    above.legend(loc="upper left", frameon=False, ncols=2)
    below.plot(days, [max(1.0, value) for value in worst(week.backlog)], color="#b33939", linewidth=0.8)
    below.set_yscale("log")
    below.set_ylabel("backlog, images")
    below.set_xticks(range(8), ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", ""])
    for axes in (above, below):
        axes.set_xlim(0, 7)
        axes.axvspan(BLIND[0] / DAY_S, sum(BLIND) / DAY_S, color="#f6e58d", linewidth=0)
        axes.axvspan(RUSH[0] / DAY_S, sum(RUSH) / DAY_S, color="#ffbe76", linewidth=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def state(week: Week, scaling: Scaling) -> str:
    """Say in a sentence what the week was like."""
    waits = sorted(wait for step, wait in enumerate(week.wait_s) if calm(step * STEP_S))
    hours = sum(week.replicas) * STEP_S / 3600
    return (
        f"{hours:.0f} worker-hours of {scaling.most * WEEK_S / 3600:.0f}; outside the rush, the blind hour and an hour "
        f"after each a request waits {waits[len(waits) // 2]:.0f} s in the median, "
        f"{waits[int(0.99 * len(waits))]:.0f} s at 99 %, {waits[-1]:.0f} s at most; "
        f"the rush leaves {max(week.backlog):,.0f} images behind"
    )


def main() -> None:
    """Simulate the week of a rendered chart, draw it and say what it was like."""
    rendered, picture = map(Path, sys.argv[1:])
    documents = [each for each in yaml.safe_load_all(rendered.read_text(encoding="utf-8")) if each]
    scaling = Scaling.of(documents, rate=70)
    week = simulate(scaling)
    draw(week, scaling, picture)
    print(state(week, scaling))  # noqa: T201 - the output asked for


if __name__ == "__main__":
    main()
