"""Explanations: their cost, their numbers, their JSON and their sheet."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.probe import EncodedFace, probe_image
from ingest.spec import FaceBox, crop_window
from scorer.decide import Calibration, Policy, decide_face, p_values
from scorer.engines.base import FeatureBatch
from scorer.errors import UsageError
from scorer.explain.crops import choose_region, occlude_crop
from scorer.explain.explain import Explainer, explain_image, find_clusters, find_threshold, state_why_unexplained
from scorer.explain.messages import ExplainedResult
from scorer.explain.sentences import NO_COPIES
from scorer.explain.sheet import render_sheet
from scorer.local_scorer import LocalScorer
from scorer.messages import CalibratedBy, Decision, ImageSource, ScoreRequest, ScoreResult
from scorer.mixture import GaussianMixture, stack_mixture

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script>&\"'\u202e.png"


def ask(data: bytes, name: str = "image", **fields: object) -> ScoreRequest:
    """Return a request for an image."""
    return ScoreRequest(request_id=name, content_id=name, image=ImageSource(data=data), **fields)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return an encoded picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def try_to_explain(scorer: LocalScorer, request: ScoreRequest, data: bytes, face_id: str | None = None) -> ScoreResult:
    """Explain a face with the parts of a scorer."""
    settings = scorer.settings
    explainer = Explainer(scorer.bundle, scorer.sandbox, scorer.embedder, settings.limits, settings.video)
    return explain_image(explainer, scorer.locate(request, data), scorer.policy, face_id)


def explain(scorer: LocalScorer, request: ScoreRequest, data: bytes) -> ExplainedResult:
    """Explain the least typical face of an image that has one."""
    explained = try_to_explain(scorer, request, data)
    assert isinstance(explained, ExplainedResult)
    return explained


@pytest.fixture(scope="module", name="explained")
def fixture_explained(local_scorer: LocalScorer, portrait: bytes) -> ExplainedResult:
    """The portrait, explained under a hostile name."""
    return explain(local_scorer, ask(portrait, HOSTILE), portrait)


def test_a_face_costs_52_passes(local_scorer: LocalScorer, portrait: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score, 49 covered crops in rows of seven and two copies: 52 passes, which the answer states."""
    engine, batches = local_scorer.embedder, []

    class Counting:
        def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
            batches.append(len(faces))
            return engine.embed(faces)

    monkeypatch.setattr(local_scorer, "embedder", Counting())
    explained = explain(local_scorer, ask(portrait), portrait)
    assert batches == [1, *[7] * 7, 2]
    assert explained.explanation.cost.engine_passes == sum(batches) <= 60


def test_the_explained_result_is_the_plain_one(
    local_scorer: LocalScorer, portrait: bytes, explained: ExplainedResult
) -> None:
    """The face is bit for bit that of a plain score, and another explanation has the same numbers."""
    request = ask(portrait, HOSTILE)
    assert local_scorer.score_located(local_scorer.locate(request, portrait)).faces == explained.faces
    again = explain(local_scorer, request, portrait)
    varying = {"scored_at": True, "timing_ms": True, "explanation": {"cost": {"seconds"}, "sentences": {-1}}}
    assert again.model_dump(exclude=varying) == explained.model_dump(exclude=varying)


def test_json_fits_its_schema(explained: ExplainedResult) -> None:
    """The JSON validates, can be read back, and shows the crop at the size of the network's input."""
    text = explained.model_dump_json()
    jsonschema.validate(json.loads(text), ExplainedResult.model_json_schema(mode="serialization"))
    assert ExplainedResult.model_validate_json(text) == explained
    crop = Image.open(io.BytesIO(base64.b64decode(explained.explanation.crop_png.partition(",")[2])))
    assert crop.size == (224, 224)


def test_numbers_agree_with_the_decision(explained: ExplainedResult, local_scorer: LocalScorer) -> None:
    """The p-value follows from the count, and the histogram has every photograph."""
    position, face = explained.explanation.calibration, explained.face
    assert face.p_value == (1 + position.at_most) / (position.faces + 1)
    assert sum(position.counts) == position.faces == len(local_scorer.bundle.model.calibration.pooled)
    assert "fake" not in " ".join(explained.explanation.sentences).lower()


def test_a_face_is_placed_among_photographs_of_its_stratum(
    local_scorer: LocalScorer, portrait: bytes, explained: ExplainedResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the calibration has the face's stratum, its photographs are the ones that are counted and shown."""
    model, face = local_scorer.bundle.model, explained.face
    own = Calibration(model.calibration.pooled, {face.stratum: face.log_likelihood + np.arange(-5.0, 3.0)})
    bundle = replace(local_scorer.bundle, model=replace(model, calibration=own))
    monkeypatch.setattr(local_scorer, "bundle", bundle)
    again = explain(local_scorer, ask(portrait), portrait)
    position = again.explanation.calibration
    assert (position.calibrated_by, position.faces, position.at_most) == (CalibratedBy.STRATUM, 8, 6)
    assert position.p_value == again.face.p_value == 7 / 9
    assert sum(position.counts) == 8
    covered = np.array(again.explanation.occlusion.changes_nats) + face.log_likelihood
    np.testing.assert_array_equal(again.explanation.occlusion.p_values, p_values(covered, own.strata[face.stratum]))
    assert "compared with photographs of that stratum" in " ".join(again.explanation.sentences)


def test_copies_of_a_huge_face_are_left_out(
    local_scorer: LocalScorer, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit of pixels no copy is made, the cost says so, and the sheet states what is missing."""
    monkeypatch.setattr("scorer.explain.explain.MAX_REGION_PIXELS", 100)
    explained = explain(local_scorer, ask(portrait), portrait)
    assert (explained.explanation.copies, explained.explanation.cost.engine_passes) == ((), 50)
    assert NO_COPIES in render_sheet(explained)


class _Tags(HTMLParser):
    """Collects the tags of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_sheet_is_inert_and_self_contained(explained: ExplainedResult) -> None:
    """No script, no handler, no inline style, no address but data; the hostile name is text."""
    page = render_sheet(explained)
    tags = _Tags(page).found
    assert not {"script", "iframe", "object", "form", "link", "base"} & {tag for tag, _ in tags}
    attributes = [(name, value or "") for _, found in tags for name, value in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith("data:image/png;base64,") for name, value in attributes if name in {"href", "src"})
    assert any("default-src 'none'" in value for name, value in attributes if name == "content")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    assert "fake" not in page.replace(explained.explanation.crop_png, "").lower()


def name_unscored(portrait: bytes) -> Iterator[tuple[str, bytes, dict[str, object], str]]:
    """Yield images that have nothing to explain, with a word of the sentence."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    yield "no face", encode(Image.fromarray(noise)), {}, "no face was found"
    yield "damaged", portrait[:5000], {}, "no score to explain"
    yield "empty", b"", {}, "no bytes"
    small = [{"face_id": "a", "box": (200, 60, 20, 20)}]
    yield "small", portrait, {"faces": small}, "face_too_small"
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    clip = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    yield "clip", clip, {}, "is a clip"


def test_what_has_no_score_gets_one_sentence(local_scorer: LocalScorer, portrait: bytes) -> None:
    """No face, a damaged file, a small face and a clip have the plain result, and one line states why."""
    for name, data, fields, word in name_unscored(portrait):
        result = try_to_explain(local_scorer, ask(data, name, **fields), data)
        assert not isinstance(result, ExplainedResult)
        why = state_why_unexplained(result)
        assert word in why
        assert why.startswith(name)
        assert "\n" not in why


def test_an_unknown_face_is_named_with_the_known_ones(local_scorer: LocalScorer, portrait: bytes) -> None:
    """`--face` with a wrong id states the ids that exist."""
    with pytest.raises(UsageError, match="no face 7: its faces are 0"):
        try_to_explain(local_scorer, ask(portrait), portrait, "7")


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40), st.floats(0.001, 0.999), st.integers(-60, 60))
def test_a_threshold_is_where_the_decision_changes(values: list[int], rate: float, likelihood: int) -> None:
    """Exactly the faces below the threshold have a p-value of at most the rate."""
    calibration = np.sort(np.array(values, np.float64))
    threshold = find_threshold(calibration, rate)
    policy = Policy(flag_false_alarm_rate=rate, review_false_alarm_rate=1)
    decision = decide_face(float(p_values(np.array([float(likelihood)]), calibration)[0]), policy)
    assert (decision is Decision.FLAG) == (threshold is not None and likelihood < threshold)


def test_each_covered_crop_differs_in_its_square_only() -> None:
    """The 49 squares are disjoint and cover the crop."""
    crop = np.random.default_rng(1).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    covered = [np.asarray(Image.open(io.BytesIO(face.data))) for face in occlude_crop(crop)]
    assert len(covered) == 49
    changed = sum((each != crop).any(axis=2).astype(int) for each in covered)
    assert changed.max() == 1
    assert changed.mean() > 0.99


def test_a_copy_of_the_surroundings_scores_as_one_of_the_image(
    local_scorer: LocalScorer, portrait: bytes, explained: ExplainedResult
) -> None:
    """JPEG 90 of the region around the face gives the log-likelihood of JPEG 90 of the whole image, bit for bit."""
    info, box = probe_image(portrait), FaceBox(*explained.face.box)
    window = crop_window(box, info.width, info.height, local_scorer.bundle.model.preprocess)
    region = choose_region(window, info)
    assert region.width * region.height < info.width * info.height
    whole = encode(Image.open(io.BytesIO(portrait)).convert("RGB"), "JPEG", quality=90)
    request = ask(whole, faces=[{"face_id": "0", "box": explained.face.box}])
    (face,) = local_scorer.score_located(local_scorer.locate(request, whole)).faces
    copy = explained.explanation.copies[0]
    assert (copy.log_likelihood, copy.p_value, copy.decision) == (face.log_likelihood, face.p_value, face.decision)


def test_a_copy_that_would_be_decided_otherwise_is_named(
    local_scorer: LocalScorer, portrait: bytes, explained: ExplainedResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a policy whose rate lies between the p-values of face and copy, the copy changes the decision."""
    own, other = explained.face.p_value, explained.explanation.copies[0].p_value
    assert own != other, "this bundle gives both the same p-value: choose another copy"
    policy = Policy(flag_false_alarm_rate=0.001, review_false_alarm_rate=(own + other) / 2)
    monkeypatch.setattr(local_scorer, "policy", policy)
    again = explain(local_scorer, ask(portrait), portrait)
    assert again.explanation.copies[0].changes_decision
    assert any("the decision would change" in sentence for sentence in again.explanation.sentences)


@given(st.integers(0, 2**32 - 1))
def test_clusters_are_those_of_the_mixture(seed: int) -> None:
    """The nearest centre has the least Mahalanobis distance; the most probable has the largest posterior."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(3))
    means, factors = random.normal(size=(3, 4)), random.uniform(0.5, 2, size=(3, 4))
    face = random.normal(size=4).astype(np.float32)
    clusters = find_clusters(face, stack_mixture(GaussianMixture(weights, means, factors)), weights)
    distances = (((face - means) * factors) ** 2).sum(axis=1)
    posterior = weights * factors.prod(axis=1) * np.exp(-distances / 2)
    assert clusters.nearest.number == distances.argmin() + 1
    assert clusters.nearest.squared_distance == pytest.approx(distances.min() / 4)
    assert clusters.most_probable.number == posterior.argmax() + 1
    assert clusters.most_probable.probability == pytest.approx(posterior.max() / posterior.sum())
    assert clusters.most_probable.share == pytest.approx(weights[posterior.argmax()])
