"""The table and the last line of a run, as wide as the terminal."""

import io
from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ingest.reasons import Reason
from scorer.bundle.bundle import Bundle
from scorer.commands.inputs import Skipped
from scorer.commands.results_table import ResultTable, RunSummary
from scorer.commands.terminal import Terminal
from scorer.decide import Policy
from scorer.messages import Decision, FaceResult, ImageFacts, ModelFacts, PolicyFacts, ScoreResult, Status

WIDTHS = (40, 60, 80, 120)


def result(
    name: str,
    status: Status,
    decision: Decision | None = None,
    *,
    reason_codes: tuple[Reason, ...] = (),
    detail: str | None = None,
) -> ScoreResult:
    """Return a result with one face where there is a decision."""
    face = FaceResult(
        face_id="0",
        box=(10, 20, 90, 120),
        detector_confidence=0.9,
        log_likelihood=1101.6,
        p_value=0.038,
        score=0.962,
        decision=decision or Decision.PASS,
        reason_codes=(),
        quality={"face_px": 90.0},
    )
    faces = (face,) if decision else ()
    return ScoreResult(
        result_id=UUID(int=1),
        request_id=name,
        content_id=name,
        status=status,
        decision=decision,
        reason_codes=reason_codes,
        detail=detail,
        score=None,
        face_count=len(faces),
        image=ImageFacts(),
        faces=faces,
        model=ModelFacts(bundle_id="b", bundle_digest="d" * 64),
        policy=PolicyFacts(
            policy_id="p", version="1", flag_false_alarm_rate=0.01, review_false_alarm_rate=0.05, min_face_px=64
        ),
        timing_ms={},
        scored_at=datetime.now(UTC),
        attributes={},
    )


RESULTS = [
    result("photos/holiday-2024-03-17.jpg", Status.SCORED, Decision.REVIEW),
    result("photos/portrait.jpg", Status.SCORED, Decision.FLAG),
    result("photos/landscape.jpg", Status.NO_FACE, reason_codes=(Reason.NO_FACE,), detail="no face was found"),
    result("photos/cut.jpg", Status.FAILED, reason_codes=(Reason.TRUNCATED,), detail="the image ends after 9000 bytes"),
]


def show(results: list[ScoreResult], bundle: Bundle, width: int) -> str:
    """Return what a terminal of `width` columns shows of a table."""
    output = io.StringIO()
    table = ResultTable()
    for each in results:
        table.add(each)
    table.show(bundle, Policy(), Terminal(file=output, width=width))
    return output.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_name_and_decision_are_readable_at_any_width(starter: Bundle, width: int) -> None:
    """No name is cut or wrapped to one letter per line; numbers are shown if the terminal is wide enough."""
    shown = show(RESULTS, starter, width)
    lines = shown.splitlines()
    table = [line for line in lines if line.startswith(("  ", " ─"))]
    assert max(map(len, table)) <= width
    rows = "".join(line[:20].strip() for line in table)
    assert "holiday-2024-03" in rows
    for name, decision in (("portrait.jpg", "flag"), ("landscape.jpg", "no_face"), ("cut.jpg", "failed")):
        (row,) = (line for line in table if name in line)
        assert decision in row
    (heading,) = (line for line in table if "image" in line)
    assert ("p-value" in heading) == (width >= 60)
    assert ("side" in heading) == (width >= 80)
    assert ("log-likelihood" in heading) == (width >= 100)
    assert "…" not in shown


def test_the_reason_of_a_failure_is_told(starter: Bundle) -> None:
    """The details of an image are below the table."""
    assert "\ncut.jpg: the image ends after 9000 bytes\n" in show(RESULTS, starter, 80)


def test_a_hostile_name_keeps_its_row(starter: Bundle) -> None:
    """Escapes of names and details are shown, in rows that stay aligned."""
    name = "photos/[x]\x1b[2J\u202e.jpg"
    shown = show([result(name, Status.FAILED, reason_codes=(Reason.TRUNCATED,), detail="\x1b[31m")], starter, 80)
    assert "[x]\\x1b[2J\\u202e.jpg" in shown
    assert "\x1b" not in shown


def test_the_last_line_counts_everything() -> None:
    """Scored by decision, no face, failed by reason, skipped by reason, and what was written."""
    summary = RunSummary()
    for each in RESULTS:
        summary.add(each)
    assert summary.describe(Counter({Skipped.SIDECAR: 2, Skipped.SUFFIX: 0}), ["4 lines in out.jsonl"]) == (
        "2 of 4 images scored (1 flagged, 1 to review, 0 passed), 1 without a face, 1 failed (1 truncated), "
        "2 skipped (2 written by a system beside images). Written: 4 lines in out.jsonl."
    )
    assert summary.facts() == {"flag": 1, "no_face": 1, "review": 1, "failed": 1}
