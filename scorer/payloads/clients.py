"""The client of each kind of store: whether its package is installed, and which variables set its credentials."""

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
# Names of the exceptions of clients for missing or refused credentials; their packages may not be installed.
_ACCESS_ERRORS = frozenset(
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
_ACCESS_STATUS = frozenset({401, 403})


def require_client(scheme: str) -> None:
    """Refuse a scheme whose client is not installed, without opening a connection.

    Raises:
        ValueError: no client supports the scheme.
        SettingsError: its package is missing; the message states what to install.
    """
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = str(known_implementations.get(scheme, {}).get("class", "fsspec")).partition(".")[0]
        if package == "fsspec":  # fsspec contains the class, but not the packages that it imports
            message = f"{scheme}:// cannot be read here: {error}"
        else:
            message = f"{scheme}:// needs the package {package}, which is not installed: {install_line(package)}"
        raise SettingsError(message) from error


def is_access_denied(error: Exception) -> bool:
    """Return whether an error of a client means that the store denies access."""
    status = getattr(error, "code", None) or getattr(error, "status_code", None)
    return isinstance(error, PermissionError) or type(error).__name__ in _ACCESS_ERRORS or status in _ACCESS_STATUS


def describe_access_denied(scheme: str) -> str:
    """Return what to do about a store that denies access."""
    if scheme not in _CREDENTIALS:
        return "the store denies access; check the credentials of this machine or the permissions of the file"
    return f"the store denies access, or this machine has no credentials; set {_CREDENTIALS[scheme]}"
