"""Check the manifest of a bundle against a digest and a signature, before any other file of it is read.

The manifest contains the SHA-256 of every other file, so one digest or signature of `bundle.json` covers them all.
Signatures are Ed25519 over the file's bytes, 64 bytes in `bundle.json.sig`:

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
    openssl pkeyutl -sign -rawin -inkey private.pem -in bundle.json -out bundle.json.sig

A plan, which the machine that serves builds, is not a file of the bundle: neither digest nor signature covers it.
"""

import hashlib
from functools import partial
from pathlib import Path

from scorer.bundle.bundle import MANIFEST, SIGNATURE, Bundle, read_bundle, read_unlisted_file
from scorer.errors import BundleMismatch, SettingsError
from scorer.settings import Settings

_MAX_SIGNATURE_BYTES = 4096


def read_trusted_bundle(settings: Settings) -> Bundle:
    """Read the bundle of the settings if it has the digest and the signature that they require.

    The checked bytes of the manifest are the parsed bytes.

    Raises:
        BundleMismatch: as `read_bundle` and `check_trust`.
        SettingsError: as `check_trust`.
        ModuleNotFoundError: as `check_trust`.
    """
    check = partial(check_trust, settings.bundle, digest=settings.bundle_digest, key=settings.bundle_key)
    return read_bundle(settings.bundle, check)


def check_trust(folder: Path, manifest: bytes, digest: str | None, key: Path | None) -> None:
    """Check the bytes of the manifest of the bundle in `folder` against a digest and a key; None skips a check.

    Raises:
        BundleMismatch: it has another digest, no signature, or a signature of another key.
        SettingsError: the file of the key is not an Ed25519 public key.
        ModuleNotFoundError: `cryptography`, of the extra `sign`, is not installed.
    """
    found = hashlib.sha256(manifest).hexdigest()
    if digest is not None and found != digest:
        message = f"{folder / MANIFEST} has the digest {found}, not the required {digest}: this is another bundle"
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
        message = f"{key} is not an Ed25519 key: make one with `openssl genpkey -algorithm ed25519`"
        raise SettingsError(message)
    try:
        public.verify(read_unlisted_file(folder, SIGNATURE, _MAX_SIGNATURE_BYTES), manifest)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): without a signature the key cannot confirm the bundle"
        raise BundleMismatch(message) from error
    except InvalidSignature as error:
        message = f"{path} was not made with {key}'s private key for this {MANIFEST}: do not use this bundle"
        raise BundleMismatch(message) from error
