"""What goes wrong between us and the Hub, in our errors: one refusal or one broken connection at a time."""

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
)
from llm_hf_models.network.errors import (
    _FORBIDDEN,
    _RETRY_HINT,
    _SERVER_ERRORS,
    _TIMEOUT_STATUSES,
    _TOO_MANY_REQUESTS,
    _UNAUTHORIZED,
    _UNAVAILABLE,
    PROXY_AUTH_REQUIRED,
    make_proxy_error,
)
from llm_hf_models.network.headers import parse_retry_after
from llm_hf_models.system.text import clean_text

LOGIN_HINT = "llm hf login"


@dataclass(frozen=True)
class HubRequest:
    """What was asked for, to word a refusal with. `endpoint` without a trailing slash."""

    endpoint: str
    has_token: bool
    token_hint: str = LOGIN_HINT  # what a person does where the token, or the want of one, is what is refused
    repo: str | None = None
    revision: str | None = None
    path: str | None = None

    @property
    def host(self) -> str:
        """The Hub's host, as people name it."""
        return self.endpoint.partition("://")[2] or self.endpoint


def make_hub_error(asked: HubRequest, status: int, headers: Mapping[str, str]) -> HfModelsError:
    """The error for an answer that is none: a status of 400 or above, or a redirect to nowhere.

    Args:
        asked: what was asked for.
        status: HTTP's.
        headers: the answer's; names compare as httpx2's do, without case.
    """
    said = clean_text(headers.get("X-Error-Message", ""), 200) or None
    if status == _TOO_MANY_REQUESTS:
        return _make_rate_limit_error(asked, parse_retry_after(headers.get), said)
    if status >= _SERVER_ERRORS:
        told = parse_retry_after(headers.get) if status == _UNAVAILABLE else None
        if told is not None:
            return RateLimitedError(f"{asked.host} asks us to wait", retry_after=told, cause=said or f"HTTP {status}")
        return HubServerError(f"{asked.host} has a problem of its own (HTTP {status})", cause=said, hint=_RETRY_HINT)
    by_code = {
        "GatedRepo": _make_gated_error,
        "RepoNotFound": _make_repo_not_found,
        "RevisionNotFound": _make_revision_not_found,
        "EntryNotFound": _make_file_not_found,
    }
    if known := by_code.get(headers.get("X-Error-Code", "")):
        return known(asked)
    return _make_status_error(asked, status, said)


def _make_status_error(asked: HubRequest, status: int, said: str | None) -> HfModelsError:
    if status == _UNAUTHORIZED and asked.has_token:
        return TokenInvalidError(f"{asked.host} does not accept the token", cause=said, hint=asked.token_hint)
    if status == _UNAUTHORIZED:
        return TokenMissingError(f"{asked.host} wants a token for this", cause=said, hint=asked.token_hint)
    if status == _FORBIDDEN:
        what = f"{asked.host} refuses this to the token" if asked.has_token else f"{asked.host} refuses this"
        hint = f"See what the token may do: {asked.endpoint}/settings/tokens"
        return AccessError(what, cause=said, hint=hint if asked.has_token else asked.token_hint)
    if status == PROXY_AUTH_REQUIRED:
        return make_proxy_error(f"HTTP {status}")
    if status in _TIMEOUT_STATUSES:
        return HubServerError(f"{asked.host} lost patience (HTTP {status})", cause=said, hint=_RETRY_HINT)
    why = "without the Hub's word why" if said is None else said
    return HubUnavailableError(f"{asked.host} answered HTTP {status}", cause=why, hint="Is HF_ENDPOINT a Hub?")


def _make_repo_not_found(asked: HubRequest) -> HfModelsError:
    if asked.has_token:
        return RepoNotFoundError(
            f"There is no repo {asked.repo} on {asked.host}, or it is private and not this token's to see",
            hint="Check its name; `llm hf whoami` shows whose token this is.",
        )
    return RepoNotFoundError(
        f"There is no repo {asked.repo} on {asked.host}, or it is private",
        hint=f"Check its name; if it is private: {asked.token_hint}",
    )


def _make_revision_not_found(asked: HubRequest) -> HfModelsError:
    hint = "Without one, the default branch is taken."
    return RevisionNotFoundError(f"{asked.repo} has no revision {asked.revision or 'main'!r}", hint=hint)


def _make_file_not_found(asked: HubRequest) -> HfModelsError:
    return FileNotFoundInRepoError(
        f"{asked.repo} has no file {asked.path!r} at {asked.revision or 'main'}",
        hint=f"llm hf info {asked.repo} --files",
    )


def _make_gated_error(asked: HubRequest) -> HfModelsError:
    page = f"{asked.endpoint}/{asked.repo}"
    if not asked.has_token:
        return TokenMissingError(
            f"{asked.repo} is gated, and was asked for without a token",
            cause=f"Its owners ask people to agree to terms on {page}",
            hint=asked.token_hint,
        )
    return GatedRepoError(
        f"{asked.repo} is gated, and the token's owner has not been granted access", hint=f"Ask for it on {page}"
    )


def _make_rate_limit_error(asked: HubRequest, wait: float | None, said: str | None) -> RateLimitedError:
    when = f"in {wait:.0f} s" if wait is not None else "in a few minutes"
    more = "" if asked.has_token else f" With a token more is allowed: {asked.token_hint}"
    return RateLimitedError(
        f"{asked.host} has had too many requests from here",
        retry_after=wait,
        cause=said,
        hint=f"Try again {when}.{more}",
    )
