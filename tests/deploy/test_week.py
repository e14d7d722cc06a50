"""A week of traffic against what the chart's ScaledObject says."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from deploy.simulation.week import BLIND, RUSH, SESSION_S, START_S, STEP_S, Scaling, Week, calm, draw, simulate, state
from scorer.settings import KafkaSettings
from tests.deploy.chart import CHART, render

RATE = 70


@pytest.fixture(scope="module")
def scaling() -> Scaling:
    """What is rendered."""
    return Scaling.of(render("shadow"), RATE)


@pytest.fixture(scope="module")
def week(scaling: Scaling) -> Week:
    """The week."""
    return simulate(scaling)


def at(week: Week, second: int) -> int:
    """Return the workers at a second."""
    return week.replicas[second // STEP_S]


def test_workers_stay_between_the_bounds(week: Week, scaling: Scaling) -> None:
    """Never fewer than the least, never more than the most, and both happen."""
    assert (min(week.replicas), max(week.replicas)) == (scaling.least, scaling.most)


def test_scaling_down_is_slow(week: Week, scaling: Scaling) -> None:
    """One worker goes at a time, at most one a period."""
    downs = [step for step in range(1, len(week.replicas)) if week.replicas[step] < week.replicas[step - 1]]
    assert all(week.replicas[step - 1] - week.replicas[step] == 1 for step in downs)
    assert min(b - a for a, b in pairwise(downs)) * STEP_S >= scaling.down_period_s


def test_nobody_is_taken_away_while_nobody_knows_the_lag(week: Week) -> None:
    """In the hour in which KEDA cannot ask the broker, the workers stay, and afterwards the backlog goes."""
    during = week.replicas[BLIND[0] // STEP_S : sum(BLIND) // STEP_S]
    assert min(during) == max(during) == at(week, BLIND[0] - STEP_S)
    assert week.wait_s[(sum(BLIND) + 3600) // STEP_S] < 60


def test_all_workers_are_there_in_the_rush_and_the_backlog_goes(week: Week, scaling: Scaling) -> None:
    """More than all can do: all work, and within two hours after it requests wait as usual."""
    assert at(week, sum(RUSH)) == scaling.most
    assert week.wait_s[(sum(RUSH) + 7200) // STEP_S] < 60


def test_requests_wait_as_long_as_asked_for(week: Week, scaling: Scaling) -> None:
    """On calm days the wait stays near the target, for half the workers that would always be enough."""
    waits = sorted(wait for step, wait in enumerate(week.wait_s) if calm(step * STEP_S))
    target_s = scaling.threshold / RATE
    assert waits[int(0.99 * len(waits))] < 2 * target_s
    assert waits[-1] < 2 * target_s + START_S
    assert sum(week.replicas) < 0.5 * scaling.most * len(week.replicas)


def test_few_partitions_make_requests_wait(scaling: Scaling) -> None:
    """With as many partitions as workers some hold twice what others do: the advice of values.yaml has a reason."""
    few = simulate(Scaling(**{**vars_of(scaling), "partitions": scaling.most}))
    waits = sorted(wait for step, wait in enumerate(few.wait_s) if calm(step * STEP_S))
    assert waits[int(0.99 * len(waits))] > 4 * scaling.threshold / RATE


def vars_of(scaling: Scaling) -> dict[str, float]:
    """Return the fields."""
    return {name: getattr(scaling, name) for name in scaling.__dataclass_fields__}


def test_simulation_uses_the_services_session_timeout() -> None:
    """A gone worker's partitions lie idle for as long as the group waits for it."""
    assert KafkaSettings().session_timeout_s == SESSION_S


def test_readme_says_what_the_simulation_says(week: Week, scaling: Scaling, tmp_path: Path) -> None:
    """The sentence in the chart's README is this run's, and the picture is small."""
    text = re.sub(r"\s+", " ", (CHART / "README.md").read_text())
    assert state(week, scaling) in text
    draw(week, scaling, tmp_path / "week.svg")
    assert (tmp_path / "week.svg").stat().st_size < 60_000
    assert (CHART / "week.svg").stat().st_size < 60_000
