"""A bundle is used only when it is the stated one, and signed when a key is given."""

import subprocess
from functools import partial
from pathlib import Path

import pytest

from deploy.local.triton import TritonServer
from scorer.bundle.bundle import MANIFEST, SIGNATURE, Bundle, read_bundle
from scorer.bundle.signature import check_trust
from scorer.errors import BundleMismatch, SettingsError
from tests.scorer.bundle.jobs import JOBS, run_command, run_job


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a private and a public key in PEM, made by OpenSSL."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


def sign(bundle: Path, private: Path) -> None:
    """Sign the manifest as in `scorer.bundle.signature`."""
    signature = bundle / SIGNATURE
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", bundle / MANIFEST, "-out", signature)


def openssl(*arguments: str | Path) -> None:
    """Run OpenSSL."""
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)  # noqa: S607 - the system's


def test_signed_bundle_is_trusted(copy: Path, tmp_path: Path, starter: Bundle) -> None:
    """OpenSSL's signature and the right digest are accepted."""
    private, public = make_key(tmp_path, "ours")
    sign(copy, private)
    run = run_command("bundle", "verify", copy, "--files-only", "--digest", starter.model.digest, "--key", public)
    assert run.returncode == 0, run.stderr
    assert starter.model.digest in run.stdout
    assert read_bundle(copy).model.digest == starter.model.digest


@pytest.mark.parametrize("harm", ["no signature", "another key's", "cut short", "of another manifest"])
def test_bad_signature_is_refused(copy: Path, tmp_path: Path, harm: str) -> None:
    """A signature that is missing, foreign, damaged or of other bytes does not pass."""
    private, public = make_key(tmp_path, "ours")
    sign(copy, make_key(tmp_path, "theirs")[0] if harm == "another key's" else private)
    if harm == "no signature":
        (copy / SIGNATURE).unlink()
    elif harm == "cut short":
        (copy / SIGNATURE).write_bytes((copy / SIGNATURE).read_bytes()[:63])
    elif harm == "of another manifest":
        (copy / MANIFEST).write_bytes((copy / MANIFEST).read_bytes() + b"\n")
    with pytest.raises(BundleMismatch):
        read_bundle(copy, partial(check_trust, copy, digest=None, key=public))


def test_another_bundle_is_refused_before_it_is_read(copy: Path) -> None:
    """A manifest with another digest ends with 65, even one that could not be parsed."""
    (copy / MANIFEST).write_text("not JSON at all")
    run = run_command("bundle", "verify", copy, "--files-only", "--digest", "0" * 64)
    assert run.returncode == 65
    assert "this is another bundle" in run.stderr


@pytest.mark.parametrize("content", ["no key", "rsa"])
def test_useless_key_is_refused(copy: Path, tmp_path: Path, content: str) -> None:
    """A key that is none, or of another kind, is a bad configuration and no reason to trust."""
    key = tmp_path / "key.pem"
    key.write_text(content)
    if content == "rsa":
        openssl("genpkey", "-algorithm", "rsa", "-out", tmp_path / "rsa.pem")
        openssl("pkey", "-in", tmp_path / "rsa.pem", "-pubout", "-out", key)
    with pytest.raises(SettingsError, match=str(key)):
        read_bundle(copy, partial(check_trust, copy, digest=None, key=key))


def test_damaged_file_is_refused_without_an_engine(copy: Path, starter: Bundle) -> None:
    """`--files-only` still checks every file that the manifest names."""
    with (copy / "mixture.npz").open("ab") as file:
        file.write(b"x")
    run = run_command("bundle", "verify", copy, "--files-only", "--digest", starter.model.digest)
    assert run.returncode == 65
    assert "mixture.npz" in run.stderr


@pytest.mark.slow
def test_triton_is_asked_for_the_golden_faces(triton: TritonServer, starter: Bundle) -> None:
    """`--triton` checks the engine of the server; if the server is down, the exit code is 75."""
    run = run_command("bundle", "verify", starter.folder, "--triton", triton.url)
    assert run.returncode == 0, run.stderr
    triton.stop()
    try:
        run = run_command("bundle", "verify", starter.folder, "--triton", triton.url)
    finally:
        triton.start()
    assert run.returncode == 75, run.stderr


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("wrong", ["digest", "key"])
def test_every_job_checks_digest_and_signature(
    copy: Path, tmp_path: Path, portrait: bytes, job: str, wrong: str
) -> None:
    """Another digest, or a missing signature, ends each job with 65."""
    options = ["--digest", "0" * 64] if wrong == "digest" else []
    key = {} if options else {"UNLENSED_BUNDLE_KEY": str(make_key(tmp_path, "ours")[1])}
    run = run_job(job, copy, tmp_path, portrait, *options, **key)
    assert run.returncode == 65, run.stderr
    sentence = "this is another bundle" if wrong == "digest" else "without a signature the key cannot confirm"
    assert sentence in run.stdout + run.stderr


def test_a_signed_bundle_scores(copy: Path, tmp_path: Path, portrait: bytes, starter: Bundle) -> None:
    """With the right digest and key a job runs as without them."""
    private, public = make_key(tmp_path, "ours")
    sign(copy, private)
    run = run_job("score", copy, tmp_path, portrait, "--digest", starter.model.digest, "--key", public, "--json")
    assert run.returncode == 0, run.stderr


def test_the_checked_bytes_are_parsed(copy: Path, starter: Bundle) -> None:
    """A manifest that changes after its check is not the one that is parsed."""

    def check(manifest: bytes) -> None:
        check_trust(copy, manifest, starter.model.digest, None)
        (copy / MANIFEST).write_text("another")

    assert read_bundle(copy, check).model.digest == starter.model.digest


def test_a_network_that_changed_since_is_not_read(copy: Path) -> None:
    """The bytes of a network are hashed again when an engine reads them."""
    bundle = read_bundle(copy)
    data = bytearray(bundle.extractor.read_bytes())
    data[-1] ^= 1
    bundle.extractor.write_bytes(data)
    with pytest.raises(BundleMismatch, match="has changed"):
        bundle.read(bundle.extractor)
    detector = copy / bundle.manifest.detector.file
    with bundle.copy(detector) as folder:
        detector.write_bytes(b"another")
        assert (Path(folder) / bundle.manifest.detector.file).read_bytes() != b"another"
