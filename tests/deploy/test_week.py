"""A simulated week of traffic for the chart's ScaledObject."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from scorer.settings import KafkaSettings
from tests.deploy.chart import CHART, render
from tests.deploy.week import KEDA_OUTAGE, RUSH, SESSION_S, START_S, STEP_S, Scaling, Week, describe, is_calm, simulate

RATE = 70


@pytest.fixture(scope="module")
def scaling() -> Scaling:
    """The rendered ScaledObject."""
    return Scaling.of(render("shadow"), RATE)


@pytest.fixture(scope="module")
def week(scaling: Scaling) -> Week:
    """The simulated week."""
    return simulate(scaling)


def at(week: Week, second: int) -> int:
    """Return the workers at a second."""
    return week.replicas[second // STEP_S]


def test_workers_stay_between_the_bounds(week: Week, scaling: Scaling) -> None:
    """Never fewer than the minimum, never more than the maximum, and both happen."""
    assert (min(week.replicas), max(week.replicas)) == (scaling.least, scaling.most)


def test_scaling_down_is_slow(week: Week, scaling: Scaling) -> None:
    """One worker is removed at a time, at most one in a period."""
    downs = [step for step in range(1, len(week.replicas)) if week.replicas[step] < week.replicas[step - 1]]
    assert all(week.replicas[step - 1] - week.replicas[step] == 1 for step in downs)
    assert min(b - a for a, b in pairwise(downs)) * STEP_S >= scaling.down_period_s


def test_no_worker_is_removed_while_the_lag_is_unknown(week: Week) -> None:
    """While KEDA cannot ask the broker, workers stay; then the backlog is worked off."""
    during = week.replicas[KEDA_OUTAGE[0] // STEP_S : sum(KEDA_OUTAGE) // STEP_S]
    assert min(during) == max(during) == at(week, KEDA_OUTAGE[0] - STEP_S)
    assert week.wait_s[(sum(KEDA_OUTAGE) + 3600) // STEP_S] < 60


def test_all_workers_run_in_the_rush_and_the_backlog_is_worked_off(week: Week, scaling: Scaling) -> None:
    """All workers run in the rush; two hours later requests wait as usual."""
    assert at(week, sum(RUSH)) == scaling.most
    assert week.wait_s[(sum(RUSH) + 7200) // STEP_S] < 60


def test_requests_wait_about_as_long_as_the_target(week: Week, scaling: Scaling) -> None:
    """On calm days the wait is near the target, with half the worker-hours."""
    waits = sorted(wait for step, wait in enumerate(week.wait_s) if is_calm(step * STEP_S))
    target_s = scaling.threshold / RATE
    assert waits[int(0.99 * len(waits))] < 2 * target_s
    assert waits[-1] < 2 * target_s + START_S
    assert sum(week.replicas) < 0.5 * scaling.most * len(week.replicas)


def test_few_partitions_make_requests_wait(scaling: Scaling) -> None:
    """With as many partitions as workers requests wait longer."""
    few = simulate(replace(scaling, partitions=scaling.most))
    waits = sorted(wait for step, wait in enumerate(few.wait_s) if is_calm(step * STEP_S))
    assert waits[int(0.99 * len(waits))] > 4 * scaling.threshold / RATE


def test_simulation_uses_the_session_timeout_of_the_service() -> None:
    """The partitions of a removed worker are idle until its session ends."""
    assert KafkaSettings().session_timeout_s == SESSION_S


def test_readme_states_the_result_of_the_simulation(week: Week, scaling: Scaling) -> None:
    """The sentence in the chart's README is this run's."""
    assert describe(week, scaling) in re.sub(r"\s+", " ", (CHART / "README.md").read_text())
