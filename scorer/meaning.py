"""What a decision means and what it does not mean: the one text for every table, page, picture and message.

The figures come from the evaluation in the manifest of the bundle; every figure was measured.
"""

import math
from collections.abc import Mapping

from scorer.bundle.manifest import Evaluation, EvaluationSample, FlaggedShare, GeneratedEvaluationSample
from scorer.decide import Policy
from scorer.messages import PolicyFacts

NAMED_GENERATORS = 4  # of more generators, only the first and the last are named


def explain_pass(evaluation: Evaluation | None, review_rate: float) -> str:
    """Return what `pass` means and what it does not mean, with the share of generated faces that passed."""
    return f"pass: not unlike the photographs this bundle knows. {explain_pass_limits(evaluation, review_rate)}"


def explain_decisions(evaluation: Evaluation | None, policy: Policy | PolicyFacts) -> list[str]:
    """Return one or two sentences on `pass` and on `flag`, for the rates of a policy."""
    return [
        explain_pass(evaluation, policy.review_false_alarm_rate),
        explain_flag(evaluation, policy.flag_false_alarm_rate),
    ]


def explain_pass_limits(evaluation: Evaluation | None, review_rate: float) -> str:
    """Return a text that `pass` does not prove a photograph, and how many generated faces passed."""
    text = "It does not mean that a face is a photograph"
    if evaluation is None or not evaluation.generated:
        return f"{text}; how many generated faces pass was not measured for this bundle."
    generated = evaluation.generated
    passed = {name: sample.faces - find_nearest_rate(sample, review_rate).faces for name, sample in generated.items()}
    faces = sum(sample.faces for sample in generated.values())
    rate = find_nearest_rate(next(iter(generated.values())), review_rate).rate
    return (
        f"{text}: in this bundle's evaluation {_share(sum(passed.values()), faces, 'generated faces')} passed at a "
        f"review rate of {_percent(rate)} ({_list_generators(passed, generated)})."
    )


def explain_flag(evaluation: Evaluation | None, flag_rate: float) -> str:
    """Return what `flag` means and what it does not mean, with the share of photographs flagged by mistake."""
    text = "flag: unlike the photographs this bundle knows, no more"
    if evaluation is None:
        return f"{text}; how many photographs are flagged by mistake was not measured for this bundle."
    sample = evaluation.photographs
    found = find_nearest_rate(sample, flag_rate)
    flagged = _share(found.faces, sample.faces, "faces of photographs from other sources")
    spread = f"95 % interval {_percent(found.low)} to {_percent(found.high)}"
    return f"{text}. In this bundle's evaluation {flagged} were flagged at a rate of {_percent(found.rate)}; {spread}."


def state_flagged_share(evaluation: Evaluation | None, flag_rate: float) -> str:
    """Return how many generated faces the bundle's evaluation flagged."""
    if evaluation is None or not evaluation.generated:
        return "How many generated faces are flagged was not measured for this bundle."
    found = [find_nearest_rate(sample, flag_rate) for sample in evaluation.generated.values()]
    faces = sum(sample.faces for sample in evaluation.generated.values())
    caught = _share(sum(each.faces for each in found), faces, "generated faces")
    return f"In this bundle's evaluation {caught} were flagged at a rate of {_percent(found[0].rate)}."


def find_nearest_rate(sample: EvaluationSample, rate: float) -> FlaggedShare:
    """Return the count at the measured rate whose ratio to `rate` is nearest to 1."""
    return min(sample.flagged, key=lambda each: abs(math.log(each.rate / rate)))


def _list_generators(passed: Mapping[str, int], generated: Mapping[str, GeneratedEvaluationSample]) -> str:
    names = sorted(passed, key=lambda name: passed[name] / generated[name].faces)
    parts = [f"{name} {passed[name]} of {generated[name].faces}" for name in names]
    if len(names) <= NAMED_GENERATORS:
        return ", ".join(parts)
    return f"{len(names)} generators, from {parts[0]} to {parts[-1]}"


def _share(count: int, of: int, what: str) -> str:
    return f"{count:,} of {of:,} {what} ({_percent(count / of)})"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"
