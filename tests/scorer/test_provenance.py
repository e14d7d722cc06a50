"""Statements beside the score: off by default, and no number or decision depends on them."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scorer.bundle.bundle import Bundle
from scorer.engines.openvino import LocalEmbedder
from scorer.errors import SettingsError
from scorer.local_scorer import LocalScorer
from scorer.messages import ImageSource, ScoreRequest, ScoreResult
from scorer.settings import ProvenanceSettings, Settings
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
    settings = Settings(bundle=root / "model_repository", threads=1, batch_images=4, provenance=provenance)
    with closing(LocalScorer(settings)) as scorer:
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
    """The HTTP service reads statements as every other job."""
    signed = authority.sign(portrait, "image/png")
    others = {"provenance": reading.settings.provenance}
    with running(starter, reading.sandbox, embedder, {}, others) as client:
        answer = client.post_files(("c", signed), request={"tenant": "forum"})
    (result,) = (ScoreResult.model_validate(each) for each in answer.json()["results"])
    assert (result.provenance, result.tenant) == (score(reading, signed).provenance, "forum")


def test_a_wrong_trust_list_is_refused(tmp_path: Path) -> None:
    """A list that is missing or contains no certificate is an error before the first image."""
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(SettingsError, match=r"provenance\.trust_list"):
            ProvenanceSettings(enabled=True, trust_list=tmp_path / name).read_trust()
    assert ProvenanceSettings(trust_list=tmp_path / "missing.pem").read_trust() is None
