"""Results by the digests of image, bundle and policy, so that the same upload is scored once; no picture is kept."""

import hashlib
import json
import threading
from collections import OrderedDict
from datetime import UTC, datetime

from ingest.clips import ClipSettings
from ingest.reasons import Reason
from scorer.decide import Policy
from scorer.messages import ScoreRequest, ScoreResult
from scorer.result_ids import result_id

ENTRY_BYTES = 512  # of the key and the two containers, beside the result's JSON
# Other reasons may be of the moment: too little time or memory, an engine that failed.
_LASTING = frozenset(
    {
        Reason.NO_FACE,
        Reason.BOX_OUTSIDE_IMAGE,
        Reason.FACE_CUT_OFF,
        Reason.FACE_TOO_SMALL,
        Reason.UNCALIBRATED_VIDEO,
        Reason.STATED_GENERATED,
    }
)

# What the caller wrote is not kept: no other request may get it.
_OF_REQUEST: dict[str, object] = {
    "request_id": "",
    "content_id": "",
    "attributes": {},
    "submitted_at": None,
    "tenant": None,
}


class ResultCache:
    """At most `max_bytes` of results, the least recently used are removed; thread-safe.

    `clips` is how clips are sampled, for the `result_id` of a clip.

    Attributes:
        bytes: that the results take now.
    """

    def __init__(self, max_bytes: int, bundle_digest: str, clips: ClipSettings) -> None:
        self._max_bytes, self._bundle_digest, self._clips = max_bytes, bundle_digest, clips
        self._results: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    @property
    def enabled(self) -> bool:
        """Whether any result is kept."""
        return self._max_bytes > 0

    def make_key(self, request: ScoreRequest, data: bytes, policy: Policy) -> str:
        """Return the digest of everything that can change the scores and the decisions of `data`."""
        boxes = None if request.faces is None else [[face.face_id, *face.box] for face in request.faces]
        inputs = [hashlib.sha256(data).hexdigest(), self._bundle_digest, policy.describe().model_dump(), boxes]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()

    def find(self, key: str, request: ScoreRequest) -> ScoreResult | None:
        """Return the stored result as the answer to `request`, now and without times of stages."""
        with self._lock:
            stored = self._results.get(key)
            if stored is None:
                return None
            self._results.move_to_end(key)
        result = ScoreResult.model_validate_json(stored)
        clips = self._clips if result.clip else None
        own = {
            "result_id": result_id(
                request,
                result.image.sha256,
                result.model.bundle_digest,
                result.policy,
                clips,
                result.provenance,
            ),
            "request_id": request.request_id,
            "content_id": request.content_id,
            "submitted_at": request.submitted_at,
            "attributes": request.attributes,
            "tenant": request.tenant,
            "scored_at": datetime.now(UTC),
            "timing_ms": {},
        }
        return result.model_copy(update=own)

    def store(self, key: str, result: ScoreResult) -> None:
        """Keep a result, unless a retry could give another one or it is larger than the cache."""
        stored = result.model_copy(update=_OF_REQUEST)
        value = stored.model_dump_json().encode()
        if not set(result.reason_codes) <= _LASTING or len(value) + ENTRY_BYTES > self._max_bytes:
            return
        with self._lock:
            if (old := self._results.pop(key, None)) is not None:
                self.bytes -= len(old) + ENTRY_BYTES
            self._results[key] = value
            self.bytes += len(value) + ENTRY_BYTES
            while self.bytes > self._max_bytes:
                _, removed = self._results.popitem(last=False)
                self.bytes -= len(removed) + ENTRY_BYTES
