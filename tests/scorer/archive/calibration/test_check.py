"""A run against its promise: intervals give the verdict, labels say what is a photograph."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scorer.archive.calibration.check import Advice, PromiseCheck, Verdict, check_promise
from scorer.archive.calibration.faces import read_faces
from scorer.archive.calibration.labels import LABELS, read_labels
from scorer.bundle.bundle import Bundle
from scorer.decide import Policy
from scorer.errors import UsageError
from scorer.strata import Stratum
from tests.scorer.archive.calibration.synthetic_run import SIZE, DrawnFaces, write_scored_run


def draw(count: int, sources: int = 20) -> DrawnFaces:
    """Return one face each of `count` photographs like those that calibrated the bundle."""
    features = np.random.default_rng(11).normal(size=(count, SIZE)).astype(np.float32)
    of = [f"source {row // 20 % sources}" for row in range(count)]
    return DrawnFaces(features, [f"{row}" for row in range(count)], of)


def check(folder: Path, bundle: Bundle, faces: DrawnFaces, p_values: list[float], **options: object) -> PromiseCheck:
    """Return the check of a run in which the faces have these p-values."""
    labels = options.pop("labels", None)
    faces.more["p_value"] = p_values
    policy = Policy(flag_false_alarm_rate=0.02, review_false_alarm_rate=0.05)
    return check_promise(read_faces(write_scored_run(folder, bundle, faces, policy=policy), labels=labels))


def spread(count: int, share: float) -> list[float]:
    """Return p-values of which `share` are 0.001, evenly over the rows."""
    return [0.001 if int((row + 1) * share) > int(row * share) else 0.5 for row in range(count)]


@pytest.mark.parametrize(
    ("share", "advice", "words"),
    [
        (0.05, Advice.YES, r"Recalibrate: 5.0 % \(.*\) of the faces have a p-value of at most 2 %"),
        (0.15, Advice.YES, r"Recalibrate: 15.0 % \(.*\) .* at most 5 %, where 5 % are promised. No face is labelled"),
        (0.0, Advice.OPTIONAL, "fewer false alarms than allowed: 0.0 %"),
    ],
)
def test_the_advice_follows_from_the_intervals(
    bundle: Bundle, tmp_path: Path, share: float, advice: Advice, words: str
) -> None:
    """Too many alarms at a rate of the policy mean yes; clearly fewer are optional."""
    found = check(tmp_path, bundle, draw(1000), spread(1000, share))
    assert found.recalibrate is advice
    assert re.search(words, found.sentence)
    assert [row.promised for row in found.false_alarms] == [0.02, 0.05]
    assert all(row.low <= row.share <= row.high for row in found.false_alarms)


def test_a_promise_that_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    """P-values that are uniform need no calibration, in no stratum, source or camera."""
    found = check(tmp_path, bundle, draw(1000), [(row % 100 + 0.5) / 100 for row in range(1000)])
    assert found.recalibrate is Advice.NO
    assert found.sentence.startswith("No need to recalibrate: 5.0 %")
    rows = (*found.false_alarms, *found.by_stratum, *found.by_camera)
    assert {row.verdict for row in rows} == {Verdict.KEPT}
    assert {row.name for row in found.by_source} == {f"source {number}" for number in range(20)}


def test_a_stratum_of_its_own_is_named(bundle: Bundle, tmp_path: Path) -> None:
    """Where only one stratum has too many alarms, the sentence names it."""
    faces = draw(2000)
    faces.strata = [Stratum.SMALL_LOW_QUALITY if row % 10 == 0 else Stratum.HIGH_QUALITY for row in range(2000)]
    p_values = [0.01 if row % 40 == 0 else (row % 97 + 4) / 101 for row in range(2000)]
    found = check(tmp_path, bundle, faces, p_values)
    assert found.recalibrate is Advice.YES
    assert found.sentence.startswith("Recalibrate by stratum: overall the promise is kept, but of small_low_quality")


def test_tracks_are_no_false_alarms_of_photographs(bundle: Bundle, tmp_path: Path) -> None:
    """Tracks with low p-values count in their stratum, not in the promise for photographs."""
    faces = draw(1000)
    faces.strata = [Stratum.VIDEO if row % 4 == 0 else Stratum.HIGH_QUALITY for row in range(1000)]
    found = check(tmp_path, bundle, faces, [0.001 if row % 4 == 0 else 0.5 for row in range(1000)])
    assert {(row.faces, row.flagged) for row in found.false_alarms} == {(750, 0)}
    assert {(row.name, row.faces, row.flagged) for row in found.by_stratum} == {
        ("video", 250, 250),
        ("high_quality", 750, 0),
    }


def test_too_few_photographs_say_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """With fewer photographs than the review rate needs, there is no advice."""
    found = check(tmp_path, bundle, draw(71), [0.001] * 71)
    assert (found.recalibrate, found.sentence) == (
        Advice.UNKNOWN,
        "The run has 71 photographs with a scored face; a check needs 72.",
    )


def test_sources_are_clusters(bundle: Bundle, tmp_path: Path) -> None:
    """Alarms of two of twenty sources have a wider interval than as many of all sources."""
    apart = check(tmp_path / "a", bundle, draw(1000), [0.001 if row // 20 % 20 < 2 else 0.5 for row in range(1000)])
    even = check(tmp_path / "b", bundle, draw(1000), spread(1000, 0.1))
    few = check(
        tmp_path / "c", bundle, draw(1000, sources=5), [0.001 if row // 20 % 20 < 2 else 0.5 for row in range(1000)]
    )
    widths = [found.false_alarms[0].high - found.false_alarms[0].low for found in (apart, even, few)]
    assert [round(found.false_alarms[0].share, 2) for found in (apart, even, few)] == [0.12, 0.1, 0.12]
    assert widths[0] > 3 * widths[1]
    assert widths[2] < 1.2 * widths[1], "with fewer than 8 sources photographs are the cases"


def test_labels_give_false_alarms_and_catches(bundle: Bundle, tmp_path: Path) -> None:
    """Generated and unsure faces are no false alarms; caught generated ones are counted."""
    faces, p_values = draw(1000), [0.001] * 60 + [0.5] * 940
    rows = [("generated", 0, 40), ("generated", 100, 110), ("unsure", 40, 60), ("photograph", 110, 210)]
    lines = [{"result_id": f"result-{n:05d}", "face": None, "label": x} for x, i, j in rows for n in range(i, j)]
    lines[0]["face"] = "0"
    found = check(tmp_path, bundle, faces, p_values, labels=pa.Table.from_pylist(lines, LABELS))
    assert found.labels == {"photograph": 100, "generated": 50, "unsure": 20}
    assert [(row.flagged, row.faces) for row in found.caught] == [(40, 50)] * 2
    assert [(row.flagged, row.faces) for row in found.false_alarms] == [(0, 930)] * 2
    assert [(row.flagged, row.faces) for row in found.labelled] == [(0, 100)] * 2
    assert found.caught[0].verdict is None
    assert "No face is labelled" not in found.sentence


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "label,result_id,note\nphotograph,AB,x\ngenerated,cd,\n"),
        ("labels.csv", "\ufeffresult_id,face,label\r\nAB,,photograph\r\ncd,,generated\r\n"),
        ("labels.jsonl", '{"result_id": "AB", "label": "photograph"}\n\n{"result_id": "cd", "label": "generated"}\n'),
    ],
)
def test_labels_are_read(tmp_path: Path, name: str, text: str) -> None:
    """CSV and JSONL, with or without faces and other columns, give the same labels."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    rows = read_labels(path).to_pylist()
    assert rows == [
        {"result_id": "ab", "face": None, "label": "photograph"},
        {"result_id": "cd", "face": None, "label": "generated"},
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "id,label\n1,photograph\n", "has no column result_id"),
        ("a.csv", "result_id,label\n1,fake\n", "line 2: .* photograph, generated, unsure, not 'fake'"),
        (
            "a.csv",
            "result_id,label\n1,unsure\n1,generated\n",
            "line 3: result 1 is labelled unsure above and generated",
        ),
        ("a.csv", "result_id,label\n,unsure\n", "line 2: a label needs a result_id"),
        ("a.jsonl", '{"result_id": "1", "label": "unsure"}\n[]\n', "line 2 is not a JSON object"),
        ("a.jsonl", '{"result_id": "1", "label": ["unsure"]}\n', "line 1: a label needs"),
        ("a.csv", "result_id,label\n1,caf\u00e9\n", "which is not UTF-8"),
    ],
)
def test_wrong_labels_are_errors(tmp_path: Path, name: str, text: str, words: str) -> None:
    """Each error names the file, the line and what is wrong."""
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=rf"{name}.*{words}"):
        read_labels(path)
