"""The id of a result: the same for the same request, image, bundle and policy."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from ingest.clips import ClipSettings
from ingest.provenance.statements import Statement, describe_statements
from scorer.messages import PolicyFacts, ScoreRequest

RESULT_NAMESPACE = UUID("9f2c1b54-6f0e-5a7e-9a53-1f0c7f0b2a11")


def result_id(  # noqa: PLR0913, PLR0917 - everything that can change a decision
    request: ScoreRequest,
    image_sha256: str | None,
    bundle_digest: str,
    policy: PolicyFacts,
    clip: ClipSettings | None = None,
    statements: Sequence[Statement] | None = None,
) -> UUID:
    """Return the id of a result: the same request under the same bundle and policy always gets the same id.

    The id depends on everything that can change a decision. The id of a request alone is not enough: it is often a
    path, whose file may change; and a policy may be edited without a new version.

    Args:
        request: its id, tenant and boxes are used.
        image_sha256: of the bytes that were scored; None if they could not be read or probed.
        bundle_digest: of the bundle that scored.
        policy: the policy that decided.
        clip: the sampling of a clip; None for an image.
        statements: of the image; only used if the policy has rules for them.
    """
    boxes = None if request.faces is None else [[face.face_id, *face.box] for face in request.faces]
    inputs: list[Any] = [request.request_id, request.tenant, boxes, image_sha256, bundle_digest]
    # The id of a result without rules is that of older releases.
    inputs.append(policy.model_dump(exclude=None if policy.statements else {"statements"}))
    if policy.statements:
        inputs.append(describe_statements(statements or ()))
    if clip:
        inputs.append([clip.sampling, clip.frames_per_second, clip.max_frames])
    return uuid5(RESULT_NAMESPACE, json.dumps(inputs))
