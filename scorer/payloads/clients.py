"""The client of each kind of store: whether its package is there, and which variables carry its credentials."""

import fsspec
from fsspec.registry import known_implementations

from scorer.errors import SettingsError
from scorer.extras import install_line

_AWS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (a public bucket: FSSPEC_S3_ANON=true)"
_AZURE = "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
_CREDENTIALS = {
    **dict.fromkeys(("s3", "s3a"), _AWS),
    **dict.fromkeys(("gs", "gcs"), "GOOGLE_APPLICATION_CREDENTIALS"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), _AZURE),
    "hf": "HF_TOKEN",
}
# What clients raise when there are no credentials or the store does not accept them, by name: they may not be imported.
_REFUSALS = frozenset(
    {
        "NoCredentialsError",  # botocore
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "TokenRetrievalError",
        "DefaultCredentialsError",  # google.auth
        "RefreshError",
        "ClientAuthenticationError",  # azure.core
        "GatedRepoError",  # huggingface_hub
    }
)
_REFUSED_STATUS = frozenset({401, 403})


def require_client(scheme: str) -> None:
    """Refuse a scheme whose client is not installed; nothing is opened.

    Raises:
        ValueError: no client reads such a scheme.
        SettingsError: its package is missing; the sentence says what to install.
    """
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = str(known_implementations.get(scheme, {}).get("class", "fsspec")).partition(".")[0]
        if package == "fsspec":  # it brings the class, but not what that imports
            message = f"{scheme}:// cannot be read here: {error}"
        else:
            message = f"{scheme}:// needs the package {package}, which is not installed: {install_line(package)}"
        raise SettingsError(message) from error


def is_access_denied(error: Exception) -> bool:
    """Return whether a client says that the store does not let this machine in."""
    status = getattr(error, "code", None) or getattr(error, "status_code", None)
    return isinstance(error, PermissionError) or type(error).__name__ in _REFUSALS or status in _REFUSED_STATUS


def describe_access_denied(scheme: str) -> str:
    """Return what to do about a store that does not let this machine in."""
    if scheme not in _CREDENTIALS:
        return "the store refuses this machine; check its credentials or the file's rights"
    return f"the store refuses this machine or has no credentials of it; set {_CREDENTIALS[scheme]}"
