"""Operating points: false-alarm rates, controls and verdicts."""

import numpy as np
import pytest

from training.evaluation.operating_points import (
    count_flagged,
    judge_generators,
    measure_flagged,
    measure_separation,
    measure_source_control,
    summarise_evaluation,
)

SOURCES = np.array(["a"] * 200 + ["b"] * 200)
PHOTOS = np.arange(400).astype(str)


def test_exchangeable_photographs_have_the_target_rate() -> None:
    """Photographs of the calibration's distribution are flagged at about the target rate, within the interval."""
    rng = np.random.default_rng(1)
    rate = count_flagged(rng.normal(size=4000), np.sort(rng.normal(size=999)), 0.05)
    assert rate is not None
    assert rate.low < rate.value < rate.high
    assert rate.value == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("held_out", "supported"), [(98, False), (99, True)])
def test_a_rate_that_the_calibration_cannot_resolve_is_none(*, held_out: int, supported: bool) -> None:
    """99 held-out faces support 1 %, 98 do not."""
    assert (count_flagged(np.zeros(10), np.arange(float(held_out)), 0.01) is not None) is supported


def test_the_least_likely_face_of_all_is_flagged_at_the_finest_rate() -> None:
    """A p-value that equals the target rate is flagged, as in the scorer."""
    rate = count_flagged(np.array([-1.0, 5.0]), np.arange(19.0), 0.05)
    assert rate is not None
    assert rate.value == 0.5


def test_faces_of_one_photograph_are_one_case() -> None:
    """The interval of ten photographs with ten faces each is that of ten cases."""
    groups = np.repeat(np.arange(10).astype(str), 10)
    values = np.repeat([-9.0] + [9.0] * 9, 10)
    together, apart = (count_flagged(values, np.zeros(99), 0.05, names) for names in (groups, None))
    assert together is not None
    assert apart is not None
    assert together.value == apart.value == 0.1
    assert together.high > 2 * apart.high


def test_photographs_of_two_sources_with_one_name_are_two() -> None:
    """Photographs with the same name in two sources are counted as two."""
    sources, photos = np.array(["a", "b"] * 50), np.repeat(np.arange(50).astype(str), 2)
    flagged = measure_flagged(np.zeros(100), (sources, photos), {}, np.arange(-99.0, 0.0), 0.05)
    assert flagged.photographs is not None
    alone = count_flagged(np.zeros(100), np.arange(-99.0, 0.0), 0.05)
    assert flagged.photographs == alone


def test_control_finds_an_odd_source() -> None:
    """A source of photographs that is less likely than the others has a high control AUC."""
    values = np.concatenate([np.zeros(20), np.full(10, -5.0), np.ones(20)])
    sources = np.array(["a"] * 20 + ["odd"] * 10 + ["c"] * 20)
    control = measure_source_control(values, sources, np.arange(50).astype(str))
    assert control["odd"].value == 1.0
    assert control["c"].value < 0.5


def test_verdict_needs_both_formats_and_the_control() -> None:
    """A generator clears its control only if it is far below every source in both formats."""
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
    assert "up to 1.00" in confounded["g"].sentence
    assert not confounded["g"].clears


def test_one_source_has_no_control_and_clears_nothing() -> None:
    """With a single source the effect of a change of source is unknown, and the verdict says so."""
    origins = np.array(["a"] * 50), np.arange(50).astype(str)
    apart = measure_separation(np.arange(50.0), origins, {"g": np.full(20, -9.0)})
    verdict = judge_generators(apart, apart)["g"]
    assert not verdict.clears
    assert "one source" in verdict.sentence


def test_summary_is_two_sentences_with_the_measured_rate() -> None:
    """The summary has the target rate and the measured rate, and says if no generator clears its control."""
    real, origins = np.zeros(400), (SOURCES, PHOTOS)
    apart = measure_separation(real, origins, {"g": np.zeros(30)})
    flagged = measure_flagged(real, origins, {"g": np.zeros(30)}, np.arange(-200.0, 0.0), 0.05)
    text = summarise_evaluation(judge_generators(apart, apart), flagged, 0.05)
    assert text.startswith("As a detector this does not work")
    assert "target false-alarm rate of 5 %, 0.0 % of the photographs' faces" in text
    assert text.count(". ") == 1
