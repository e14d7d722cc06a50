"""Whose bundle is this: its manifest against a stated digest and a signature, before anything else of it is read.

The manifest holds the SHA-256 of every other file, so one digest or one signature over `bundle.json` covers them all.
Signatures are Ed25519 over the file's bytes, 64 bytes in `bundle.json.sig`:

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
    openssl pkeyutl -sign -rawin -inkey private.pem -in bundle.json -out bundle.json.sig

A plan, which the machine that serves builds, is no file of the bundle: nothing here vouches for it.
"""

import hashlib
from functools import partial
from pathlib import Path

from scorer.bundle.bundle import MANIFEST, SIGNATURE, Bundle, read_bundle, read_unlisted_file
from scorer.errors import BundleMismatch, SettingsError
from scorer.settings import Settings

_MAX_SIGNATURE_BYTES = 4096


def read_trusted_bundle(settings: Settings) -> Bundle:
    """Read the settings' bundle, if it is the one that they ask for.

    The bytes of the manifest that are vouched for are those that are parsed.

    Raises:
        BundleMismatch: as `read_bundle` and `check_trust`.
        SettingsError: as `check_trust`.
        ModuleNotFoundError: as `check_trust`.
    """
    vouch = partial(check_trust, settings.bundle, digest=settings.bundle_digest, key=settings.bundle_key)
    return read_bundle(settings.bundle, vouch)


def check_trust(folder: Path, manifest: bytes, digest: str | None, key: Path | None) -> None:
    """Check the bytes of the manifest of the bundle in `folder` against what was asked for.

    Without a digest and a key nothing is checked.

    Raises:
        BundleMismatch: it has another digest, no signature, or one that the key did not make.
        SettingsError: the key's file is no Ed25519 public key.
        ModuleNotFoundError: `cryptography`, of the extra `sign`, is not installed.
    """
    found = hashlib.sha256(manifest).hexdigest()
    if digest is not None and found != digest:
        message = f"{folder / MANIFEST} has the digest {found}, and {digest} was asked for: this is another bundle"
        raise BundleMismatch(message)
    if key is not None:
        _check_signature(folder, manifest, key)


def _check_signature(folder: Path, manifest: bytes, key: Path) -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    path = folder / SIGNATURE
    try:
        public = load_pem_public_key(key.read_bytes())
    except (OSError, ValueError) as error:
        message = f"{key} cannot be used as a public key: {error}"
        raise SettingsError(message) from error
    if not isinstance(public, Ed25519PublicKey):
        message = f"{key} is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`"
        raise SettingsError(message)
    try:
        public.verify(read_unlisted_file(folder, SIGNATURE, _MAX_SIGNATURE_BYTES), manifest)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): without a signature no key can vouch for it"
        raise BundleMismatch(message) from error
    except InvalidSignature as error:
        message = f"{path} was not made with {key}'s private key for this {MANIFEST}: do not use this bundle"
        raise BundleMismatch(message) from error
