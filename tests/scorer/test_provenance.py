"""Statements beside the score: off by default, and no number or decision depends on them."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ingest.provenance.statements import Statement, StatementKind, StatementSource, Validity
from ingest.reasons import Reason
from scorer.bundle.bundle import Bundle
from scorer.commands.main import app
from scorer.decide import Policy
from scorer.engines.openvino import LocalEmbedder
from scorer.errors import PolicyError, SettingsError
from scorer.local_scorer import LocalScorer
from scorer.messages import Decision, ImageSource, ScoreRequest, ScoreResult, StatementRule
from scorer.policies import PolicyWatcher, read_policies
from scorer.score import score_batch
from scorer.settings import ProvenanceSettings, Settings, load_settings
from tests.ingest.provenance.signed import Authority, make_authority
from tests.scorer.api.conftest import running


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs."""
    return make_authority()


@pytest.fixture(scope="module")
def reading(root: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalScorer]:
    """A scorer that reads statements and trusts the authority."""
    trust = tmp_path_factory.mktemp("trust") / "list.pem"
    trust.write_text(authority.root)
    provenance = ProvenanceSettings(enabled=True, trust_list=trust)
    wanted = Settings(bundle=root / "model_repository", threads=1, batch_images=4, provenance=provenance)
    with closing(LocalScorer(wanted)) as scorer:
        yield scorer


def score(scorer: LocalScorer, data: bytes) -> ScoreResult:
    """Return the result of an image of a tenant."""
    request = ScoreRequest(request_id="r", content_id="c", image=ImageSource(data=data), tenant="forum")
    return scorer.score_located(scorer.locate(request, data))


def test_statements_change_nothing_else(
    local_scorer: LocalScorer, reading: LocalScorer, authority: Authority, portrait: bytes
) -> None:
    """A signed statement that an image is generated leaves every other field as it is; by default nothing is read."""
    signed = authority.sign(portrait, "image/png")
    plain, stated = score(local_scorer, signed), score(reading, signed)
    assert plain.provenance is None
    assert stated.provenance is not None
    assert [(each.kind, each.statement, each.validity) for each in stated.provenance] == [
        ("c2pa_manifest", "signed by Test signer; made with test maker 1.0", "trusted"),
        ("digital_source_type", "trainedAlgorithmicMedia", "trusted"),
    ]
    varying = {"provenance", "timing_ms", "scored_at"}
    assert plain.model_dump(exclude=varying) == stated.model_dump(exclude=varying)
    assert score(reading, portrait).provenance == ()


def test_a_result_names_its_tenant(local_scorer: LocalScorer, portrait: bytes) -> None:
    """The tenant of the request stands in the result, also of an image that cannot be scored."""
    assert [score(local_scorer, data).tenant for data in (portrait, b"no image")] == ["forum", "forum"]


def test_an_image_that_fails_has_its_statements(reading: LocalScorer, authority: Authority, portrait: bytes) -> None:
    """An image whose pixels are damaged still has statements, which are invalid; one that is no image has none."""
    signed = authority.sign(portrait, "image/png")
    at = signed.index(b"IDAT") + 4
    size = int.from_bytes(signed[at - 8 : at - 4], "big")
    damaged = signed[: at + size // 2]
    result = score(reading, damaged)
    assert result.status == "failed"
    assert result.provenance is not None
    assert "trusted" not in {each.validity for each in result.provenance}
    assert score(reading, b"no image").provenance is None


def test_http_answers_have_statements_and_tenant(
    starter: Bundle, reading: LocalScorer, embedder: LocalEmbedder, authority: Authority, portrait: bytes
) -> None:
    """The HTTP service reads statements and applies a policy's rules as every other job."""
    signed = authority.sign(portrait, "image/png")
    policy = Policy(flag_false_alarm_rate=0.05, statements=(StatementRule(at_least=Decision.FLAG),))
    others = {"provenance": reading.settings.provenance, "policy": policy}
    with running(starter, reading.sandbox, embedder, {}, others) as client:
        answer = client.post_files(("c", signed), request={"tenant": "forum"})
        (explained,) = client.post_files(("c", signed), request={"explain": True}).json()["results"]
    (result,) = (ScoreResult.model_validate(each) for each in answer.json()["results"])
    assert (result.provenance, result.tenant) == (score(reading, signed).provenance, "forum")
    assert (result.decision, result.reason_codes) == (Decision.FLAG, (Reason.STATED_GENERATED,))
    because = "The decision on the image is flag, not for this face: the image states that it was generated ("
    assert explained["explanation"]["meaning"][-1].startswith(because)


STATEMENTS = st.lists(
    st.builds(
        Statement,
        kind=st.sampled_from(StatementKind),
        statement=st.sampled_from(["trainedAlgorithmicMedia", "digitalCapture", "text 'prompt', as ComfyUI writes it"]),
        source=st.sampled_from(StatementSource),
        validity=st.sampled_from(Validity),
    ),
    max_size=4,
)
RULES = st.lists(
    st.builds(
        StatementRule,
        at_least=st.sampled_from([Decision.REVIEW, Decision.FLAG]),
        kinds=st.none() | st.just((StatementKind.GENERATOR,)) | st.just((StatementKind.DIGITAL_SOURCE_TYPE,)),
        sources=st.none() | st.lists(st.sampled_from(StatementSource), min_size=1, max_size=3).map(tuple),
        validities=st.none() | st.lists(st.sampled_from(Validity), min_size=1, max_size=3).map(tuple),
    ),
    max_size=3,
).map(tuple)


@given(STATEMENTS, RULES, st.sampled_from([1e-9, 1e-6, 1.0]), st.sampled_from([1.0, 64.0, 4096.0]))
@settings(max_examples=25, deadline=None)
def test_statements_never_lower_a_decision(
    reading: LocalScorer,
    portrait: bytes,
    statements: list[Statement],
    rules: tuple[StatementRule, ...],
    rate: float,
    min_face_px: float,
) -> None:
    """Whatever an image states, its decision is at least that without rules, and faces and scores are the same."""
    located = reading.locate(ScoreRequest(request_id="r", content_id="c", image=ImageSource(data=portrait)), portrait)
    policy = Policy(flag_false_alarm_rate=rate, review_false_alarm_rate=rate, min_face_px=min_face_px)
    ruled = policy.model_copy(update={"statements": rules})
    stated = replace(located, statements=tuple(statements))
    cases = [(located, policy), (stated, policy), (stated, ruled)]
    plain, without, result = score_batch(cases, reading.embedder, reading.bundle.model)
    assert plain.decision is without.decision
    assert plain.decision is not None
    assert result.decision is not None
    required = [rule.at_least.rank for rule in rules for each in statements if rule.applies(each)]
    assert result.decision.rank == max([plain.decision.rank, *required])
    assert (Reason.STATED_GENERATED in result.reason_codes) == bool(required)
    assert (result.faces, result.score, result.status, result.failed) == (
        plain.faces,
        plain.score,
        plain.status,
        plain.failed,
    )


@pytest.mark.parametrize(
    ("validities", "decision"), [(None, Decision.FLAG), (("trusted",), Decision.FLAG), (("unverified",), Decision.PASS)]
)
def test_a_policy_routes_on_a_signed_statement(
    reading: LocalScorer,
    authority: Authority,
    portrait: bytes,
    validities: tuple[Validity, ...] | None,
    decision: Decision,
) -> None:
    """A rule for a validity applies to statements of that validity only, and the result says why."""
    signed = authority.sign(portrait, "image/png")
    located = reading.locate(ScoreRequest(request_id="r", content_id="c", image=ImageSource(data=signed)), signed)
    rule = StatementRule.model_validate({"at_least": "flag", "validities": validities})
    rates = {"flag_false_alarm_rate": 1e-9, "review_false_alarm_rate": 1e-9}
    policy = Policy.model_validate(rates | {"statements": (rule,)})
    (result,) = score_batch([(located, policy)], reading.embedder, reading.bundle.model)
    assert result.decision is decision
    assert (result.reason_codes, result.policy.statements) == (
        (Reason.STATED_GENERATED,) if decision is Decision.FLAG else (),
        (rule,),
    )
    if result.reason_codes:
        assert result.detail == (
            "the image states that it was generated (trainedAlgorithmicMedia; c2pa, trusted), and the policy decides "
            "at least flag"
        )
    assert [face.decision for face in result.faces] == [Decision.PASS] * len(result.faces)


def test_rules_without_statements_are_refused(tmp_path: Path, starter: Bundle) -> None:
    """A setting or a file with rules is an error where statements are not read; an unknown value always is."""
    policy = {"statements": [{"at_least": "review"}]}
    with pytest.raises(SettingsError, match=r"policy default: statements.*provenance\.enabled"):
        load_settings(policy=policy)
    assert load_settings(policy=policy, provenance={"enabled": True}).policy.statements[0].at_least == "review"
    file, size = tmp_path / "policies.toml", starter.manifest.calibration
    for value, known in (("review", True), ("pass", False)):
        file.write_text(
            "default_policy = 'a'\n[policies.a]\nversion = '1'\nflag_false_alarm_rate = 0.05\n"
            f"[[policies.a.statements]]\nat_least = '{value}'\n"
        )
        with pytest.raises(PolicyError, match="provenance" if known else "at_least"):
            read_policies(file, size)
        if known:
            assert read_policies(file, size, provenance=True).policies["a"].statements
        else:
            with pytest.raises(PolicyError, match="at_least"):
                PolicyWatcher(file, size, provenance=True)


def test_a_wrong_trust_list_is_refused(tmp_path: Path) -> None:
    """A list that is missing or contains no certificate is an error before the first image."""
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(SettingsError, match=r"provenance\.trust_list"):
            ProvenanceSettings(enabled=True, trust_list=tmp_path / name).read_trust()
    assert ProvenanceSettings(trust_list=tmp_path / "missing.pem").read_trust() is None


def test_a_scan_writes_statements(
    root: Path, tmp_path: Path, authority: Authority, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows have what results have, rules decide, and a run resumes; without `provenance.enabled` nothing is read."""
    (tmp_path / "in").mkdir()
    for name, data in (("plain", portrait), ("signed", authority.sign(portrait, "image/png"))):
        (tmp_path / "in" / f"{name}.png").write_bytes(data)
    trust = tmp_path / "list.pem"
    trust.write_text(authority.root)
    monkeypatch.setenv("UNLENSED_CONFIG", str(tmp_path / "unlensed.toml"))
    (tmp_path / "unlensed.toml").write_text(
        f"[provenance]\nenabled = true\ntrust_list = '{trust}'\n[policy]\nflag_false_alarm_rate = 0.05\n"
        "[[policy.statements]]\nat_least = 'flag'\nvalidities = ['trusted']\n"
    )

    def run_scan(out: Path) -> dict[str, dict[str, Any]]:
        arguments = ["scan", str(tmp_path / "in"), "--out", str(out), "--bundle", str(root / "model_repository")]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        (part,) = (out / "results").iterdir()
        return {Path(row["content_id"]).stem: row for row in pq.ParquetFile(part).read().to_pylist()}

    rows = run_scan(tmp_path / "run")
    assert rows["plain"]["provenance"] == []
    assert [(each["kind"], each["validity"]) for each in rows["signed"]["provenance"]] == [
        ("c2pa_manifest", "trusted"),
        ("digital_source_type", "trusted"),
    ]
    assert (rows["signed"]["decision"], rows["signed"]["reason_codes"]) == ("flag", ["stated_generated"])
    same = ("p_value", "face_score", "face_decision", "score")
    assert [rows["signed"][name] for name in same] == [rows["plain"][name] for name in same]
    assert "What images state about their origin" in (tmp_path / "run" / "report.html").read_text()
    assert run_scan(tmp_path / "run") == rows
    erasure = ["erase", str(tmp_path / "run"), "--content-id", rows["plain"]["content_id"]]
    assert CliRunner().invoke(app, erasure).exit_code == 0
    (part,) = (tmp_path / "run" / "results").iterdir()
    assert pq.ParquetFile(part).read().to_pylist() == [rows["signed"]]
    (tmp_path / "unlensed.toml").unlink()
    monkeypatch.delenv("UNLENSED_CONFIG")
    unread = run_scan(tmp_path / "unread")
    assert [row["provenance"] for row in unread.values()] == [None, None]
    assert unread["signed"]["decision"] == unread["plain"]["decision"]
