"""Create TLS contexts from the certificate bundle in the environment."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path

from llm_hf_models.errors import TlsError
from llm_hf_models.system.text import clean_text

# The first variable that is set is used.
BUNDLE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_bundle_sources: dict[str, str] = {}  # variables set by export_bundle, and the variables they were copied from


@functools.lru_cache(maxsize=4)
def _create_context(bundle: str | None) -> ssl.SSLContext:
    if bundle:
        is_folder = Path(bundle).is_dir()
        return ssl.create_default_context(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)
    import httpx2  # the same trusted certificates as huggingface_hub

    return httpx2.create_ssl_context()


def _find_bundle_variable() -> str | None:
    """Return the name of the variable that selects the bundle."""
    return next((name for name in BUNDLE_VARIABLES if os.environ.get(name)), None)


def make_unreadable_bundle_error(error: OSError) -> TlsError:
    """Return the error for an unreadable bundle: the one that the environment selects, otherwise the system's."""
    cause, variable = clean_text(error.strerror or str(error), 200), _find_bundle_variable()
    if variable is None:
        return TlsError("Can't read this system's certificates", cause=cause)
    return TlsError(
        f"Can't read the certificates in {clean_text(os.environ[variable], 200)}",
        cause=cause,
        hint=f"Change or unset the environment variable {_bundle_sources.get(variable, variable)}.",
    )


def create_tls_context() -> ssl.SSLContext:
    """Create a TLS context with the certificates from the environment, otherwise the system's.

    Raises:
        TlsError: the bundle can't be read.
    """
    variable = _find_bundle_variable()
    try:
        return _create_context(os.environ[variable] if variable else None)
    except OSError as error:
        raise make_unreadable_bundle_error(error) from None


def export_bundle() -> None:
    """Set the variables that httpx2 reads, so that huggingface_hub uses the same bundle."""
    variable = _find_bundle_variable()
    if variable and not variable.startswith("SSL_"):
        bundle = os.environ[variable]
        target = "SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"
        os.environ[target], _bundle_sources[target] = bundle, variable
