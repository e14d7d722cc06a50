"""A stored result is the result that scoring would give, and the store is bounded."""

import base64
from pathlib import Path
from typing import Any

from ingest.clips import DEFAULT_CLIP_SETTINGS
from scorer.api.cache import ENTRY_BYTES, ResultCache
from scorer.messages import ImageSource, ScoreRequest
from scorer.schemas import EXAMPLE_FAILED_RESULT, EXAMPLE_REQUEST, EXAMPLE_RESULT
from tests.scorer.api.conftest import Client, Serve

TIMES = ("timing_ms", "scored_at")


def count_hits(client: Client) -> float:
    """Return the metric."""
    lines = client.get("/metrics").body.decode().splitlines()
    return float(next(line for line in lines if line.startswith("unlensed_cache_hits_total ")).split()[1])


def test_a_hit_equals_the_score(serve: Serve, client: Client, portrait: bytes, root: Path) -> None:
    """The same picture in another request is answered from the cache, with that request's own fields and id."""
    image = {"bytes": base64.b64encode(portrait).decode()}
    first = {"request_id": "1", "content_id": "1", "image": image, "attributes": {"secret": "x"}, "tenant": "forum"}
    again = {"request_id": "2", "content_id": "c", "image": image}
    boxes = {**again, "faces": [{"face_id": "b", "box": [180, 70, 95, 110]}]}

    def drop(result: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        return {name: value for name, value in result.items() if name not in TIMES}

    with serve(cache_bytes=1 << 20) as cached:
        cached.post_json(first)
        assert count_hits(cached) == 0
        assert drop(cached.post_json(again).json()) == drop(client.post_json(again).json())
        assert count_hits(cached) == 1
        cached.post_json(boxes)
        assert count_hits(cached) == 1
        assert drop(cached.post_json(boxes).json()) == drop(client.post_json(boxes).json())
        assert count_hits(cached) == 2
        for _ in range(2):
            cached.post_json({**again, "image": {"bytes": ""}})
        assert count_hits(cached) == 2  # a failure is not kept
    with serve(cache_bytes=1 << 20, policies=root / "deploy/policies.toml") as cached:
        strict, other = (cached.post_json({**again, "tenant": each}).json() for each in ("forum", "news"))
        assert (count_hits(cached) == 0) == (strict["policy"] != other["policy"])


def test_the_least_recently_used_go_first() -> None:
    """The bytes never exceed the limit; what a retry could change, and what is too large, is not stored."""
    size = len(EXAMPLE_RESULT.model_dump_json())
    cache = ResultCache(2 * (size + ENTRY_BYTES), "d", DEFAULT_CLIP_SETTINGS)
    for key in ("a", "b"):
        cache.store(key, EXAMPLE_RESULT)
    assert cache.find("a", EXAMPLE_REQUEST)
    cache.store("c", EXAMPLE_RESULT)
    cache.store("c", EXAMPLE_RESULT)
    assert [key for key in "abc" if cache.find(key, EXAMPLE_REQUEST)] == ["a", "c"]
    assert 0 < cache.bytes <= 2 * (size + ENTRY_BYTES)
    cache.store("failed", EXAMPLE_FAILED_RESULT)
    assert cache.find("failed", EXAMPLE_REQUEST) is None
    small = ResultCache(ENTRY_BYTES, "d", DEFAULT_CLIP_SETTINGS)
    small.store("a", EXAMPLE_RESULT)
    assert (small.bytes, small.find("a", EXAMPLE_REQUEST)) == (0, None)
    assert not ResultCache(0, "d", DEFAULT_CLIP_SETTINGS).enabled


def test_a_hit_has_nothing_of_the_first_request() -> None:
    """Ids, attributes and times are those of the request that asks."""
    cache = ResultCache(1 << 20, "d", DEFAULT_CLIP_SETTINGS)
    cache.store("a", EXAMPLE_RESULT)
    request = ScoreRequest(request_id="other", content_id="mine", image=ImageSource(data=b"x"))
    found = cache.find("a", request)
    assert found is not None
    assert (found.request_id, found.content_id, found.attributes) == ("other", "mine", {})
    assert (found.submitted_at, found.tenant) == (None, None)
    assert found.timing_ms == {}
    assert found.faces == EXAMPLE_RESULT.faces
    assert found.result_id != EXAMPLE_RESULT.result_id
