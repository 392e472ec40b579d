"""The one exception tree. What this package raises on purpose is here; the faces word it for people."""

from __future__ import annotations


class HfModelsError(Exception):
    """What happened, why, and the command that fixes it, kept apart so that each face can show them its own way.

    Args:
        message: what happened, one sentence, no trailing newline.
        cause: why, as far as it is known.
        hint: what to do next, usually a command.
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
    """What the caller gave can't be used as it is: a malformed ref, size, setting or option."""

    exit_code = 2


class BadRefError(BadInputError):
    """A name that is no model ref, or a file name that is not safe."""


class NotFoundError(HfModelsError):
    """Something named does not exist."""


class RepoNotFoundError(NotFoundError):
    """No such repo on the Hub, or one that this token can't see: the Hub does not tell these apart."""


class RevisionNotFoundError(NotFoundError):
    """The repo has no such branch, tag or commit."""


class FileNotFoundInRepoError(NotFoundError):
    """The repo has no such file at that revision."""


class QuantNotFoundError(NotFoundError):
    """The repo has no such quantization; the hint lists those there are."""


class NoGgufError(NotFoundError):
    """The repo holds no GGUF file."""


class UnknownModelError(NotFoundError):
    """No local model of that name."""


class AmbiguousNameError(BadInputError):
    """A name that matches several local models; the cause lists them."""


class NameTakenError(BadInputError):
    """An alias that already names another model."""


class AccessError(HfModelsError):
    """The Hub knows what was asked for and refuses it to this token."""


class TokenMissingError(AccessError):
    """A private or gated repo, and no token."""


class TokenInvalidError(AccessError):
    """The Hub does not accept the token."""


class GatedRepoError(AccessError):
    """A gated repo, and a token whose owner has not been granted access."""


class NetworkError(HfModelsError):
    """The Hub or the storage host could not be reached or did not answer as it should."""


class OfflineError(NetworkError):
    """Offline mode is on, or there is no network."""


class ProxyRefusedError(OfflineError):
    """A proxy on the way wants to know who we are: no try without its password goes better."""


class TimedOutError(NetworkError):
    """No answer within the time limit."""


class RateLimitedError(NetworkError):
    """HTTP 429. `retry_after` is the wait that was asked for, in seconds."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.retry_after = retry_after


class HubUnavailableError(NetworkError):
    """A 5xx, or an answer that is not the Hub's protocol."""


class HubServerError(HubUnavailableError):
    """The Hub has a trouble of its own, which may be over at the next try: 5xx, 408."""


class TlsError(NetworkError):
    """The other side's certificate was not accepted. Never retried."""


class StorageError(HfModelsError):
    """The disk refused."""


class DiskFullError(StorageError):
    """Not enough room. `missing_bytes` is how much more is needed."""

    def __init__(
        self, message: str, *, missing_bytes: int = 0, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.missing_bytes = missing_bytes


class NotWritableError(StorageError):
    """No permission to write where it is needed."""


class VerificationError(HfModelsError):
    """Something fetched or kept is not what it should be."""


class DigestMismatchError(VerificationError):
    """The bytes are not those the Hub recorded; message names both digests."""


class FileChangedError(VerificationError):
    """The file changed upstream during a download, and was not spliced."""


class InvalidGgufError(VerificationError):
    """Not a GGUF file, or one that breaks the format's rules. `code` is the rule's documented name."""

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
    """A model's header could not be read within its time limit, and so was not judged."""


class MissingFileError(VerificationError):
    """A recorded file is gone from the disk."""


class PolicyError(HfModelsError):
    """A rule in settings refuses this; the hint names the rule."""


class ConsentError(PolicyError):
    """An agent wants what a person has to agree to first."""


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
    """The llama.cpp process, or the endpoint in its place."""


class EngineStartError(EngineError):
    """The engine did not start; the cause holds its own last words."""


class ModelTooLargeError(EngineError):
    """The model does not fit this machine's free memory. Said before loading."""


class EngineLostError(EngineError):
    """The engine died or stopped answering in the middle of a turn."""


class EngineRequestError(EngineError):
    """The engine answered with an error: a wrong option, a prompt larger than the context."""

    status: int | None = None  # of its answer (HTTP), where that is about the request


class InterruptedByUserError(HfModelsError):
    """Ctrl-C, or a stop event. What was done so far is kept."""

    exit_code = 130


class KeychainError(HfModelsError):
    """The token could not be stored or read."""


class NotModifiedError(HfModelsError):
    """The Hub's answer is still the one whose ETag was given. Not a failure: the caller has the answer already."""
