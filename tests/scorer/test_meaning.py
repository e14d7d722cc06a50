"""Texts on decisions contain measured figures only, and never claim that a face is a photograph."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scorer.bundle.bundle import Bundle
from scorer.bundle.manifest import Evaluation, EvaluationSample, FlaggedShare, GeneratedEvaluationSample
from scorer.decide import Policy
from scorer.meaning import explain_decisions, explain_flag, explain_pass, state_flagged_share

RATES = (0.05, 0.01)


def flagged(*faces: int) -> tuple[FlaggedShare, ...]:
    """Return counts at `RATES`."""
    return tuple(FlaggedShare(rate=rate, faces=count, low=0, high=1) for rate, count in zip(RATES, faces, strict=False))


def evaluate(generated: dict[str, tuple[int, int]]) -> Evaluation:
    """Return an evaluation of generators, each with its faces and how many are flagged at 5 %."""
    samples = {
        name: GeneratedEvaluationSample(faces=faces, flagged=flagged(hits), auc=0.5, auc_one_format=0.5)
        for name, (faces, hits) in generated.items()
    }
    photographs = EvaluationSample(faces=200, flagged=flagged(11, 1))
    return Evaluation(measured_on="2026-01-15", note="", photographs=photographs, generated=samples)


def test_the_starter_says_what_its_card_measured(starter: Bundle) -> None:
    """1,728 of 1,902 generated faces passed, 58 of 1,350 faces of photographs were flagged, both at 5 %."""
    sentences = explain_decisions(starter.manifest.evaluation, Policy(flag_false_alarm_rate=0.05))
    assert sentences[0] == (
        "pass: not unlike the photographs this bundle knows. It does not mean that a face is a photograph: in this "
        "bundle's evaluation 1,728 of 1,902 generated faces (90.9 %) passed at a review rate of 5 % (9 generators, "
        "from gemini_nano_banana 28 of 47 to stylegan_like 500 of 500)."
    )
    assert sentences[1] == (
        "flag: unlike the photographs this bundle knows, no more. In this bundle's evaluation 58 of 1,350 faces of "
        "photographs from other sources (4.3 %) were flagged at a rate of 5 %; 95 % interval 1.5 % to 9.6 %."
    )


def test_the_starter_s_figures_are_those_of_its_card(starter: Bundle) -> None:
    """The model card contains the counts, shares, intervals and AUCs of the manifest, rounded."""
    evaluation, card = starter.manifest.evaluation, (starter.folder / "MODEL_CARD.md").read_text()
    assert evaluation is not None
    for name, sample in evaluation.generated.items():
        (found,) = (each for each in sample.flagged if each.rate == 0.05)
        share = f"{found.faces / sample.faces:.1%} ({found.low:.1%} to {found.high:.1%})"
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
        assert f"| {sample.faces} | {sample.auc:.2f} (" in row
        assert f"| {sample.auc_one_format:.2f} (" in row
        assert f" | {share} | " in row
    sample = evaluation.photographs
    for found in sample.flagged:
        share = f"{found.faces / sample.faces:.1%} ({found.low:.1%} to {found.high:.1%})"
        assert f"| {found.rate:.0%} | {share} | " in card
        assert f" | {sample.faces} |\n" in card
    assert f"{starter.manifest.calibration_size:,} faces of {starter.manifest.calibration_photographs} phot" in card
    assert explain_pass(evaluation, 0.05) in card


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 500), st.integers(0, 500)), min_size=1))
def test_passed_and_flagged_add_up(drawn: dict[str, tuple[int, int]]) -> None:
    """At one rate, the generated faces that passed and those that were flagged are all of them."""
    counts = {name: (faces, min(hits, faces)) for name, (faces, hits) in drawn.items()}
    evaluation = evaluate(counts)
    faces, hits = (sum(pair[place] for pair in counts.values()) for place in (0, 1))
    assert f"evaluation {faces - hits:,} of {faces:,} generated faces" in explain_pass(evaluation, 0.05)
    assert f"evaluation {hits:,} of {faces:,} generated faces" in state_flagged_share(evaluation, 0.05)


def test_many_generators_are_told_by_their_ends() -> None:
    """Of five generators the one with the fewest and the one with the most faces that passed are named."""
    text = explain_pass(evaluate({name: (10, hits) for hits, name in enumerate("abcde")}), 0.05)
    assert text.endswith("(5 generators, from e 6 of 10 to a 10 of 10).")


@pytest.mark.parametrize(("asked", "told"), [(0.05, "5 %"), (0.2, "5 %"), (0.01, "1 %"), (0.0001, "1 %")])
def test_the_rate_that_was_measured_is_told(asked: float, told: str) -> None:
    """Where another rate than the policy's was measured, the sentence states that one."""
    assert f"were flagged at a rate of {told};" in explain_flag(evaluate({}), asked)


def test_what_was_not_measured_is_told() -> None:
    """A bundle without an evaluation, or one without generated faces, claims no figure."""
    for evaluation in (None, evaluate({})):
        assert "It does not mean that a face is a photograph" in explain_pass(evaluation, 0.05)
        assert explain_pass(evaluation, 0.05).endswith("was not measured for this bundle.")
        assert state_flagged_share(evaluation, 0.05).endswith("was not measured for this bundle.")
    assert explain_flag(None, 0.05).endswith("was not measured for this bundle.")


def test_impossible_figures_are_refused() -> None:
    """More flagged faces than faces, more at a finer rate, a name that does not print, generators at other rates."""
    for faces in ((201,), (3, 4)):
        with pytest.raises(ValidationError, match="cannot be those flagged"):
            EvaluationSample(faces=200, flagged=flagged(*faces))
    with pytest.raises(ValidationError, match="do not print"):
        evaluate({"\x1b[31m": (1, 0)})
    one = evaluate({"a": (10, 1)})
    other = one.generated["a"].model_copy(update={"flagged": flagged(1, 0)})
    with pytest.raises(ValidationError, match="at the same rates"):
        Evaluation.model_validate(one.model_dump() | {"generated": {"a": one.generated["a"], "b": other}})
