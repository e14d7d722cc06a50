"""A simulated week of traffic for the chart's autoscaler: how many workers run, and how long requests wait.

The rules are a cluster's: the autoscaler's tolerance, windows and policies, KEDA's cap and fallback, one worker for a
partition, time to start, and partitions idle until the session of a worker that left ends. The traffic is invented.
"""

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

STEP_S = 15
DAY_S = 86_400
WEEK_S = 7 * DAY_S
TOLERANCE = 0.1  # the autoscaler changes nothing for a smaller difference
START_S = 60  # from a pod's creation to its first record: schedule, verify, load, join
SESSION_S = 45  # settings.kafka.session_timeout_s
RUSH = (5 * DAY_S + 20 * 3600, 1800)  # Saturday evening: start, length
KEDA_OUTAGE = (3 * DAY_S + 10 * 3600, 3600)  # Thursday morning: start, length


@dataclass(frozen=True)
class Scaling:
    """The fields of the ScaledObject, and the rate of one worker in images/s."""

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
        """Read the workers' ScaledObject and the topic of requests from a rendered chart."""
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
    """What happened, one entry for each step."""

    arrivals: list[float] = field(default_factory=list)  # images/s
    replicas: list[int] = field(default_factory=list)
    backlog: list[float] = field(default_factory=list)  # images
    wait_s: list[float] = field(default_factory=list)  # of the partition with the longest wait


def traffic(second: int, scaling: Scaling, noise: random.Random) -> float:
    """Return images/s: quiet at five in the morning, busy in the afternoon and at weekends."""
    full = scaling.rate * scaling.most
    hour = second % DAY_S / 3600
    daily = 0.5 - 0.5 * math.cos(2 * math.pi * (hour - 5) / 24)
    weekend = 1.15 if second // DAY_S >= 5 else 1.0
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
        """Return the wanted number of replicas; `lag` is None while it is unknown."""
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
    """Simulate the week in steps of 15 s."""
    noise, week, autoscaler = random.Random(seed), Week(), Autoscaler(scaling)  # noqa: S311 - no secret
    backlog = [0.0] * scaling.partitions
    replicas, working = scaling.least, scaling.least
    starting: deque[tuple[int, int]] = deque()  # ready at, how many workers then
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
        is_lag_unknown = KEDA_OUTAGE[0] <= second < sum(KEDA_OUTAGE)
        wanted = autoscaler.decide(second, replicas, None if is_lag_unknown else sum(backlog))
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


def is_calm(second: int) -> bool:
    """Return whether this is outside the rush, the outage of KEDA and the hour after each."""
    return all(not start <= second < start + length + 3600 for start, length in (RUSH, KEDA_OUTAGE))


def describe(week: Week, scaling: Scaling) -> str:
    """Return the week in a sentence, which the README of the chart quotes."""
    waits = sorted(wait for step, wait in enumerate(week.wait_s) if is_calm(step * STEP_S))
    hours = sum(week.replicas) * STEP_S / 3600
    return (
        f"{hours:.0f} worker-hours of {scaling.most * WEEK_S / 3600:.0f}; outside the rush, the outage of KEDA and "
        f"an hour after each a request waits {waits[len(waits) // 2]:.0f} s in the median, "
        f"{waits[int(0.99 * len(waits))]:.0f} s at 99 %, {waits[-1]:.0f} s at most; "
        f"the rush leaves {max(week.backlog):,.0f} images behind"
    )
