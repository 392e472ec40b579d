"""Translate the Hub's error responses into this package's errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_hf_models.errors import (
    AccessError,
    FileNotFoundInRepoError,
    GatedRepoError,
    HfModelsError,
    HubServerError,
    HubUnavailableError,
    RateLimitedError,
    RepoNotFoundError,
    RevisionNotFoundError,
    TokenInvalidError,
    TokenMissingError,
    UnknownCollectionError,
)
from llm_hf_models.network.errors import (
    FIRST_SERVER_ERROR,
    FORBIDDEN,
    NOT_FOUND,
    PROXY_AUTH_REQUIRED,
    RETRY_HINT,
    TIMEOUT_STATUSES,
    TOO_MANY_REQUESTS,
    UNAUTHORIZED,
    UNAVAILABLE,
    make_proxy_error,
)
from llm_hf_models.network.headers import parse_retry_after
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_duration

LOGIN_HINT = "llm hf login"


@dataclass(frozen=True)
class HubRequest:
    """The parts of a request to the Hub that error messages mention."""

    endpoint: str  # without a trailing slash
    has_token: bool
    token_hint: str = LOGIN_HINT  # hint for a missing or rejected token
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    collection: str | None = None  # the slug of a collection

    @property
    def host(self) -> str:
        """Return the Hub's host as shown in messages."""
        return self.endpoint.partition("://")[2] or self.endpoint


def make_hub_error(request: HubRequest, status: int, headers: Mapping[str, str]) -> HfModelsError:
    """Return the error for a failed response: a status of 400 or above, or a redirect without a target.

    Args:
        request: the request that failed.
        status: HTTP status.
        headers: the response's headers, with case-insensitive names as in httpx2.
    """
    message = clean_text(headers.get("X-Error-Message", ""), 200) or None
    if status == TOO_MANY_REQUESTS:
        return _make_rate_limit_error(request, parse_retry_after(headers.get), message)
    if status >= FIRST_SERVER_ERROR:
        delay = parse_retry_after(headers.get) if status == UNAVAILABLE else None
        if delay is not None:
            return RateLimitedError(
                f"{request.host} is temporarily unavailable", retry_after=delay, cause=message or f"HTTP {status}"
            )
        return HubServerError(f"{request.host} returned a server error (HTTP {status})", cause=message, hint=RETRY_HINT)
    if request.collection and (status == NOT_FOUND or (status == UNAUTHORIZED and not request.has_token)):
        return _make_collection_not_found(request)
    by_code = {
        "GatedRepo": _make_gated_error,
        "RepoNotFound": _make_repo_not_found,
        "RevisionNotFound": _make_revision_not_found,
        "EntryNotFound": _make_file_not_found,
    }
    if not request.collection and (known := by_code.get(headers.get("X-Error-Code", ""))):
        return known(request)
    return _make_status_error(request, status, message)


def _make_status_error(request: HubRequest, status: int, message: str | None) -> HfModelsError:
    if status == UNAUTHORIZED and request.has_token:
        return TokenInvalidError(f"{request.host} rejected the token", cause=message, hint=request.token_hint)
    if status == UNAUTHORIZED:
        return TokenMissingError(f"{request.host} requires a token", cause=message, hint=request.token_hint)
    if status == FORBIDDEN:
        summary = (
            f"{request.host} denied access with this token" if request.has_token else f"{request.host} denied access"
        )
        hint = f"Check the token's permissions: {request.endpoint}/settings/tokens"
        return AccessError(summary, cause=message, hint=hint if request.has_token else request.token_hint)
    if status == PROXY_AUTH_REQUIRED:
        return make_proxy_error(f"HTTP {status}")
    if status in TIMEOUT_STATUSES:
        return HubServerError(f"{request.host} timed out (HTTP {status})", cause=message, hint=RETRY_HINT)
    why = "The response gives no reason." if message is None else message
    return HubUnavailableError(
        f"{request.host} returned HTTP {status}", cause=why, hint="Check that HF_ENDPOINT is the URL of a Hub."
    )


def _make_repo_not_found(request: HubRequest) -> HfModelsError:
    if request.has_token:
        return RepoNotFoundError(
            f"{request.host} has no repo {request.repo}, or the token has no access",
            hint="Check the name, and the token's account with `llm hf whoami`.",
        )
    return RepoNotFoundError(
        f"{request.host} has no public repo {request.repo}",
        hint=f"Check the name. If the repo is private: {request.token_hint}",
    )


def _make_collection_not_found(request: HubRequest) -> HfModelsError:
    hint = "Copy the address of its page."
    if not request.has_token:
        hint += f" If the collection is private: {request.token_hint}"
    return UnknownCollectionError(f"{request.host} has no collection {request.collection} for this account", hint=hint)


def _make_revision_not_found(request: HubRequest) -> HfModelsError:
    hint = "Omit the revision to use the default branch."
    return RevisionNotFoundError(f"{request.repo} has no revision {request.revision or 'main'!r}", hint=hint)


def _make_file_not_found(request: HubRequest) -> HfModelsError:
    return FileNotFoundInRepoError(
        f"{request.repo} has no file {request.path!r} at {request.revision or 'main'}",
        hint=f"llm hf info {request.repo} --files",
    )


def _make_gated_error(request: HubRequest) -> HfModelsError:
    page = f"{request.endpoint}/{request.repo}"
    if not request.has_token:
        error = TokenMissingError(
            f"{request.repo} is gated and requires a token",
            cause=f"Its owners require users to accept terms on {page}",
            hint=request.token_hint,
        )
        error.is_gated = True
        return error
    return GatedRepoError(f"{request.repo} is gated, and the token has no access", hint=f"Request access on {page}")


def _make_rate_limit_error(request: HubRequest, wait: float | None, message: str | None) -> RateLimitedError:
    when = f"in {format_duration(wait)}" if wait is not None else "in a few minutes"
    more = "" if request.has_token else f" A token raises the limit: {request.token_hint}"
    return RateLimitedError(
        f"Rate limited by {request.host}",
        retry_after=wait,
        cause=message,
        hint=f"Try again {when}.{more}",
    )
