"""The exception tree: every error that this package raises on purpose. The interfaces format it for people."""

from __future__ import annotations


class HfModelsError(Exception):
    """An error as three separate texts, so that each interface can format them in its own way.

    Args:
        message: The fact, in one sentence without a trailing newline.
        cause: The reason, as far as it is known.
        hint: The next step, usually a command.
    """

    exit_code = 1

    def __init__(self, message: str, *, cause: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.cause, self.hint) if part)


class BadInputError(HfModelsError):
    """Invalid input: a malformed ref, size, setting or option."""

    exit_code = 2


class BadRefError(BadInputError):
    """A name is not a model ref, or a file name could escape its folder."""


class NotFoundError(HfModelsError):
    """Something that the caller named does not exist."""


class RepoNotFoundError(NotFoundError):
    """The Hub has no such repo, or the token cannot access it. The Hub does not distinguish the two."""


class RevisionNotFoundError(NotFoundError):
    """The repo has no such branch, tag or commit."""


class FileNotFoundInRepoError(NotFoundError):
    """The repo has no such file at that revision."""


class QuantNotFoundError(NotFoundError):
    """The repo has no such quantization; the hint lists the available ones."""


class NoGgufError(NotFoundError):
    """The repo holds no GGUF file."""


class UnknownModelError(NotFoundError):
    """No local model has this name."""


class AmbiguousNameError(BadInputError):
    """A name matches several local models; the cause lists them."""


class NameTakenError(BadInputError):
    """An alias already belongs to another model."""


class AccessError(HfModelsError):
    """The Hub refuses access with this token, or without one."""


class TokenMissingError(AccessError):
    """A private or gated repo needs a token, and there is none."""


class TokenInvalidError(AccessError):
    """The Hub does not accept the token."""


class GatedRepoError(AccessError):
    """A gated repo has not granted access to the owner of the token."""


class NetworkError(HfModelsError):
    """The Hub or the storage host could not be reached, or its response was invalid."""


class OfflineError(NetworkError):
    """Offline mode is on, or there is no network."""


class ProxyRefusedError(OfflineError):
    """A proxy requires authentication. Trying again without its password cannot succeed."""


class TimedOutError(NetworkError):
    """No response arrived within the time limit."""


class RateLimitedError(NetworkError):
    """Rate limited (HTTP 429). `retry_after` is the requested delay in seconds."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.retry_after = retry_after


class HubUnavailableError(NetworkError):
    """The Hub failed (5xx), or its response does not follow the Hub's protocol."""


class HubServerError(HubUnavailableError):
    """The Hub has a temporary problem (5xx, 408); the next attempt may succeed."""


class TlsError(NetworkError):
    """The server's certificate was not accepted. Never retried."""


class StorageError(HfModelsError):
    """Reading or writing a file failed."""


class DiskFullError(StorageError):
    """Not enough disk space; `missing_bytes` is the number of bytes short."""

    def __init__(
        self, message: str, *, missing_bytes: int = 0, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.missing_bytes = missing_bytes


class NotWritableError(StorageError):
    """A file or folder is not writable."""


class VerificationError(HfModelsError):
    """A file differs from its recorded state."""


class DigestMismatchError(VerificationError):
    """The digest differs from the one that the Hub recorded; the message names both."""


class FileChangedError(VerificationError):
    """The file changed on the Hub during a download. Parts of two versions are never combined."""


class InvalidGgufError(VerificationError):
    """The file is not GGUF, or it breaks the format's rules. `code` is the documented name of the rule."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "not-gguf",
        offset: int | None = None,
        cause: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.code = code
        self.offset = offset


class SlowHeaderError(VerificationError):
    """A model's header could not be read within the time limit, so it was not validated."""


class MissingFileError(VerificationError):
    """A recorded file is no longer on the disk."""


class PolicyError(HfModelsError):
    """A rule in the settings refuses the action; the hint names the setting."""


class ConsentError(PolicyError):
    """An agent's action needs the consent of a person first."""


class UnsafeFileError(PolicyError):
    """The Hub's scanners report the file as unsafe."""


class LibraryError(HfModelsError):
    """The library file could not be used."""


class LibraryDamagedError(LibraryError):
    """The library file is not a readable SQLite database."""


class LibraryTooNewError(LibraryError):
    """The library file was written by a newer version of this package."""


class LibraryBusyError(LibraryError):
    """Another process kept the library file locked for too long."""


class EngineError(HfModelsError):
    """The engine, or a remote endpoint, failed."""


class EngineStartError(EngineError):
    """The engine did not start; the cause quotes the end of its log."""


class ModelTooLargeError(EngineError):
    """The model does not fit this machine's free memory. Raised before loading."""


class EngineLostError(EngineError):
    """The engine ended or stopped responding during a completion."""


class EngineRequestError(EngineError):
    """The engine refused the request, for example because the prompt is larger than the context."""

    status: int | None = None  # HTTP status, if the error is about the request


class InterruptedByUserError(HfModelsError):
    """Ctrl-C was pressed, or a stop event was set. Finished work is kept."""

    exit_code = 130


class KeychainError(HfModelsError):
    """The token could not be stored or read."""


class NotModifiedError(HfModelsError):
    """The response still has the ETag that the caller sent. Not a failure: the caller has the response already."""
