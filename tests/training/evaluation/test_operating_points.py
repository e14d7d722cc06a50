"""Operating points: p-values as served, false-alarm rates, controls and verdicts."""

import numpy as np
import pytest

from scorer.decide import Calibration
from scorer.strata import Stratum
from training.evaluation.operating_points import (
    MIN_SOURCES,
    choose_clusters,
    describe_support,
    find_finest_rate,
    judge_generators,
    measure_flagged,
    measure_separation,
    measure_source_control,
    serve_p_values,
    summarise_control,
    summarise_evaluation,
)

SOURCES = np.array(["a"] * 200 + ["b"] * 200)
PHOTOS = np.arange(400).astype(str)
FINEST = 0.001


def test_exchangeable_photographs_of_each_stratum_have_the_target_rate() -> None:
    """Strata that differ by 50 nats have about the target rate each."""
    rng = np.random.default_rng(1)
    shifts = {Stratum.LARGE: 0.0, Stratum.SMALL_LOW_QUALITY: -50.0}
    strata = {stratum: np.sort(rng.normal(shift, 1, 999)) for stratum, shift in shifts.items()}
    calibration = Calibration(np.sort(np.concatenate(list(strata.values()))), strata)
    names = [stratum for stratum in shifts for _ in range(200)]
    served = serve_p_values(
        np.concatenate([rng.normal(shift, 1, 200) for shift in shifts.values()]), names, calibration
    )
    flagged = measure_flagged(served, (SOURCES, PHOTOS), {}, 0.05, find_finest_rate(calibration))
    for source in "ab":
        rate = flagged.by_source[source]
        assert rate.low < 0.05 < rate.high


@pytest.mark.parametrize(("held_out", "supported"), [(98, False), (99, True)])
def test_a_rate_that_a_part_of_the_calibration_cannot_resolve_is_none(*, held_out: int, supported: bool) -> None:
    """99 held-out faces support 1 %, 98 do not, however many there are in other strata."""
    calibration = Calibration(np.arange(500.0), {Stratum.LARGE: np.arange(float(held_out))})
    flagged = measure_flagged(np.zeros(400), (SOURCES, PHOTOS), {"g": np.ones(3)}, 0.01, find_finest_rate(calibration))
    assert (flagged.photographs is not None, flagged.generated["g"] is not None) == (supported, supported)
    assert flagged.mean == (0 if supported else None)


def test_the_least_likely_face_of_all_is_flagged_at_the_finest_rate() -> None:
    """A p-value that equals the target rate is flagged, as in the scorer."""
    calibration = Calibration(np.arange(19.0))
    served = serve_p_values(np.array([-1.0, 5.0]), [Stratum.LARGE] * 2, calibration)
    flagged = measure_flagged(served, (SOURCES[:2], PHOTOS[:2]), {"g": served}, 0.05, find_finest_rate(calibration))
    assert flagged.mean == 0.5


def test_few_sources_are_resampled_by_photograph_and_many_by_source() -> None:
    """Alarms of one source widen the interval; a name in two sources is two."""
    photos = np.repeat(np.arange(20).astype(str), 4)
    assert len(np.unique(choose_clusters((np.tile(["a", "b"], 40), photos)))) == 40
    sources = np.repeat(np.arange(MIN_SOURCES).astype(str), 20)
    names = np.arange(len(sources)).astype(str)
    assert choose_clusters((sources, names)) is sources
    one = np.where(sources == "0", 0.0, 1.0)
    spread = np.where(np.arange(len(sources)) % MIN_SOURCES == 0, 0.0, 1.0)
    wide, narrow = (measure_flagged(values, (sources, names), {}, 0.05, FINEST).photographs for values in (one, spread))
    assert wide.value == narrow.value
    assert wide.high > narrow.high


def test_control_finds_an_odd_source_and_leaves_out_small_ones() -> None:
    """A source of less likely photographs has a high AUC; one of nine faces has none."""
    values = np.concatenate([np.zeros(20), np.full(10, -5.0), np.ones(20), np.full(9, -9.0)])
    sources = np.array(["a"] * 20 + ["odd"] * 10 + ["c"] * 20 + ["small"] * 9)
    control = measure_source_control(values, sources)
    assert set(control) == {"a", "c", "odd"}
    assert control["odd"] > 0.8
    assert control["c"] < 0.5
    summary = summarise_control(control)
    assert (summary.high, summary.median, summary.sources) == (control["odd"], control["a"], 3)


def test_verdict_needs_both_formats_and_the_control() -> None:
    """A generator clears its control only if it is far below the sources in both formats."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=400)
    origins = SOURCES, PHOTOS
    far, near = rng.normal(-4, 1, 200), rng.normal(0, 1, 200)
    clear = judge_generators(
        measure_separation(real, origins, {"g": far}), measure_separation(real, origins, {"g": far})
    )
    assert clear["g"].clears
    assert clear["g"].sentence.startswith("g clears its control: AUC 1.00")
    format_only = judge_generators(
        measure_separation(real, origins, {"g": far}), measure_separation(real, origins, {"g": near})
    )
    assert not format_only["g"].clears
    odd, below = real - 9 * (SOURCES == "a"), {"g": far - 6}
    confounded = judge_generators(measure_separation(odd, origins, below), measure_separation(odd, origins, below))
    assert confounded["g"].sentence.startswith("g does not clear its control: AUC 0.8")
    assert "/ 1.00 (10, 50 and 90 % of 2 sources)" in confounded["g"].sentence
    assert not confounded["g"].clears


def test_one_source_has_no_control_and_clears_nothing() -> None:
    """With a single source the effect of a change of source is unknown, and the verdict says so."""
    origins = np.array(["a"] * 50), np.arange(50).astype(str)
    apart = measure_separation(np.arange(50.0), origins, {"g": np.full(20, -9.0)})
    verdict = judge_generators(apart, apart)["g"]
    assert not verdict.clears
    assert "is unknown" in verdict.sentence


def test_summary_states_means_the_lowest_and_the_measured_rates() -> None:
    """The summary has the mean and the lowest AUC in one format, and both shares at each rate."""
    real, origins = np.linspace(0.002, 1, 400), (np.tile(["a", "b"], 200), PHOTOS)
    generated = {"high": np.full(30, 0.001), "low": np.full(30, 0.6)}
    apart = measure_separation(real, origins, generated)
    flagged = {rate: measure_flagged(real, origins, generated, rate, 0.02) for rate in (0.05, 0.01)}
    text = summarise_evaluation(judge_generators(apart, apart), apart, flagged)
    assert text.startswith("1 of 2 generators clear their control: high.")
    assert "mean AUC over 2 generators is 0.70" in text
    assert "and the lowest 0.40 (low)." in text
    assert "target false-alarm rate of 5 %, 5.0 % of the photographs' faces" in text
    assert "on average 50 % of a generator's (0 to 100 %)" in text
    assert text.endswith("The calibration is too small for a false-alarm rate of 1 %.")


def test_support_states_what_is_needed_and_whether_a_rate_was_kept() -> None:
    """A rate is kept if its interval reaches the target; small parts are named."""
    values = np.linspace(0.0005, 1, 400)
    kept, broken = (measure_flagged(v, (SOURCES, PHOTOS), {}, 0.01, FINEST) for v in (values, values / 10))
    text = describe_support({"all": 400, "large": 80}, kept, 0.01)
    assert text.startswith("1 % is resolvable from 368 photographs; the calibration has 400, and these strata too few")
    assert "large 80. Kept: 1.0 %" in text
    assert "400. Not kept: 10.0 %" in describe_support({"all": 400}, broken, 0.01)
