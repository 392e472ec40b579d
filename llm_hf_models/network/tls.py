"""TLS contexts and certificate bundles."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path

from llm_hf_models.errors import TlsError
from llm_hf_models.system.text import clean_text

BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)  # the first that is set counts
_bundle_sources: dict[str, str] = {}  # variables that we set, and whose value it is


@functools.lru_cache(maxsize=4)
def _create_context(bundle: str | None) -> ssl.SSLContext:
    if bundle:
        folder = Path(bundle).is_dir()
        return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    import httpx2  # its trust is huggingface_hub's too: one answer to "is this certificate good" in the whole product

    return httpx2.create_ssl_context()


def _find_bundle_variable() -> str | None:
    """The variable that names the bundle."""
    return next((name for name in BUNDLE_VARIABLES if os.environ.get(name)), None)


def unreadable_bundle_error(error: OSError) -> TlsError:
    """The error for certificates that can't be read: those that the environment names, or else the system's."""
    cause, named = clean_text(error.strerror or str(error), 200), _find_bundle_variable()
    if named is None:
        return TlsError("Can't read this system's certificates", cause=cause)
    return TlsError(
        f"Can't read the certificates in {clean_text(os.environ[named], 200)}",
        cause=cause,
        hint=f"{_bundle_sources.get(named, named)} in the environment names them: change it, or unset it.",
    )


def create_tls_context() -> ssl.SSLContext:
    """Certificates from SSL_CERT_FILE or SSL_CERT_DIR, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, else the system's.

    Raises:
        TlsError: the bundle that was named can't be read.
    """
    named = _find_bundle_variable()
    try:
        return _create_context(os.environ[named] if named else None)
    except OSError as error:
        raise unreadable_bundle_error(error) from None


def export_bundle() -> None:
    """Names the bundle in the variables that httpx2 reads, for huggingface_hub's session: it knows no others."""
    named = _find_bundle_variable()
    if named and not named.startswith("SSL_"):
        bundle = os.environ[named]
        told = "SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"
        os.environ[told], _bundle_sources[told] = bundle, named
