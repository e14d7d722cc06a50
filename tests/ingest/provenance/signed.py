"""Images with C2PA manifests, signed by a certificate that is made here."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True)
class Authority:
    """A root certificate in PEM, and what signs below it."""

    root: str
    chain: bytes
    key: bytes

    def sign(self, data: bytes, media_type: str, *, remote_url: str = "") -> bytes:
        """Return the image with a manifest, or only with a reference to one at `remote_url`."""
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", self.chain, self.key, None))
        actions = {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]}
        manifest: dict[str, Any] = {
            "claim_generator_info": [{"name": "test maker", "version": "1.0"}],
            "assertions": [{"label": "c2pa.actions", "data": actions}],
        }
        out = io.BytesIO()
        with c2pa.Builder(manifest) as builder:
            if remote_url:
                builder.set_remote_url(remote_url)
                builder.set_no_embed()
            builder.sign(signer, media_type, io.BytesIO(data), out)
        return out.getvalue()


def make_authority() -> Authority:
    """Return a new authority; its certificates have what C2PA requires."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, each)]) for each in ("Test root", "Test signer")]
    root, leaf = (_certify(names[at], names[0], keys[at].public_key(), keys[0], is_root=at == 0) for at in range(2))
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Authority(root.decode(), leaf + root, key)


def _certify(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    *,
    is_root: bool,
) -> bytes:
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=is_root, crl_sign=is_root, **usage), critical=True
        )
    )
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
