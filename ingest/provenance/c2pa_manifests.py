"""Statements of C2PA manifests, with the validity of their signature. Nothing is fetched.

The library is c2pa-python (extra `provenance`), in Rust; only the sandbox's processes load it.
"""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import c2pa

from ingest.formats import jxl
from ingest.provenance.metadata import name_source_type
from ingest.provenance.statements import Statement, StatementKind, StatementSource, Validity, make_line

_STATES = {"Trusted": Validity.TRUSTED, "Valid": Validity.VALID, "Invalid": Validity.INVALID}
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
_MAX_MANIFESTS, _MAX_ACTIONS = 4, 2
_UNREADABLE = Statement(
    StatementKind.C2PA_MANIFEST, "a manifest that cannot be read", StatementSource.C2PA, Validity.UNREADABLE
)
_ELSEWHERE = Statement(
    StatementKind.C2PA_MANIFEST, "a manifest in another place; not fetched", StatementSource.C2PA, Validity.UNREADABLE
)


class ManifestReader:
    """Reads manifests; `trust` is the PEM text of the certificates that are trusted, or empty."""

    def __init__(self, trust: str) -> None:
        settings: dict[str, Any] = {"verify": {**_OFFLINE, "verify_trust": True}}
        if trust:
            settings["trust"] = {"trust_anchors": trust}
        self._context = c2pa.Context.from_dict(settings)

    def read(self, data: bytes, media_type: str) -> list[Statement]:
        """Return the statements of an image's manifests: the active one first, then those of its ingredients."""
        if media_type == jxl.JXL and next(jxl.walk_jxl_boxes(data), None) is None:
            return []  # a bare codestream has no place for a manifest
        try:
            reader = c2pa.Reader.try_create(media_type, io.BytesIO(data), context=self._context)
            if reader is None:
                return []
            with reader:
                return _list_statements(json.loads(reader.json()))
        except (c2pa.C2paError, ValueError, LookupError, TypeError, AttributeError) as error:
            # The library has no class for this one.
            return [_ELSEWHERE if str(error).startswith("Remote: must fetch") else _UNREADABLE]


def _list_statements(store: Mapping[str, Any]) -> list[Statement]:
    active = store["active_manifest"]
    validity = _STATES.get(store.get("validation_state", ""), Validity.INVALID)
    found = list(_describe(store["manifests"][active], StatementSource.C2PA, validity))
    # An ingredient was signed before it became a part: its own signature says nothing about these bytes.
    inherited = Validity.INVALID if validity is Validity.INVALID else Validity.UNVERIFIED
    others = [manifest for label, manifest in store["manifests"].items() if label != active]
    for manifest in others[:_MAX_MANIFESTS]:
        found += _describe(manifest, StatementSource.C2PA_INGREDIENT, inherited)
    return found


def _describe(manifest: Mapping[str, Any], source: StatementSource, validity: Validity) -> Iterator[Statement]:
    signature = manifest.get("signature_info") or {}
    names = [str(signature[key]) for key in ("issuer", "common_name") if signature.get(key)]
    makers = [
        f"{maker.get('name', '')} {maker.get('version', '')}".strip()
        for maker in manifest.get("claim_generator_info") or ()
    ] or [str(manifest.get("claim_generator") or "")]
    signer, maker = ", ".join(dict.fromkeys(names)) or "nobody", makers[0] if makers else ""
    line = make_line(f"signed by {signer[:80]}" + (f"; made with {maker[:80]}" if maker else ""))
    yield Statement(StatementKind.C2PA_MANIFEST, line, source, validity)
    for value in _list_source_types(manifest):
        yield Statement(StatementKind.DIGITAL_SOURCE_TYPE, name_source_type(value), source, validity)


def _list_source_types(manifest: Mapping[str, Any]) -> list[str]:
    actions = [
        action
        for assertion in manifest.get("assertions") or ()
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion["data"].get("actions") or ()
    ]
    values = [str(action["digitalSourceType"]) for action in actions if action.get("digitalSourceType")]
    return list(dict.fromkeys(values))[:_MAX_ACTIONS]
