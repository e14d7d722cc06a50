"""Whose bundle is this: its manifest against a stated digest and a signature, before anything else of it is read.

The manifest holds the SHA-256 of every other file, so one digest or one signature over `bundle.json` covers them all.
Signatures are Ed25519 over the file's bytes, 64 bytes in `bundle.json.sig`:

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
    openssl pkeyutl -sign -rawin -inkey private.pem -in bundle.json -out bundle.json.sig
"""

import hashlib
from pathlib import Path

from scorer.bundle import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, BundleMismatch
from scorer.settings import SettingsError


def check_trust(folder: Path, digest: str | None, key: Path | None) -> None:
    """Check the manifest of the bundle in `folder` against what was asked for; without either, nothing is checked.

    Raises:
        BundleMismatch: it has another digest, no signature, or one that the key did not make.
        SettingsError: the key's file is no Ed25519 public key.
        ModuleNotFoundError: `cryptography`, of the extra `sign`, is not installed.
    """
    if digest is None and key is None:
        return
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        message = f"{folder} is no bundle: cannot read {MANIFEST} ({error.strerror})"
        raise BundleMismatch(message) from error
    found = hashlib.sha256(manifest).hexdigest()
    if digest is not None and found != digest:
        message = f"{folder / MANIFEST} has the digest {found}, and {digest} was asked for: this is another bundle"
        raise BundleMismatch(message)
    if key is not None:
        _check_signature(folder / SIGNATURE, manifest, key)


def _check_signature(path: Path, manifest: bytes, key: Path) -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        public = load_pem_public_key(key.read_bytes())
    except (OSError, ValueError) as error:
        message = f"{key} cannot be used as a public key: {error}"
        raise SettingsError(message) from error
    if not isinstance(public, Ed25519PublicKey):
        message = f"{key} is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`"
        raise SettingsError(message)
    try:
        public.verify(path.read_bytes(), manifest)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): without a signature no key can vouch for it"
        raise BundleMismatch(message) from error
    except InvalidSignature as error:
        message = f"{path} was not made with {key}'s private key for this {MANIFEST}: do not use this bundle"
        raise BundleMismatch(message) from error
