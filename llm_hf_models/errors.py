"""Define the exceptions that this package raises on purpose. The CLI and the MCP server format them for people."""

from __future__ import annotations

import re

from llm_hf_models.redaction import redact


class HfModelsError(Exception):
    """The base class of this package's exceptions.

    Each interface can format the message, cause and hint in its own way. They never contain a token or key of this
    process, even if a server repeats it.

    Args:
        message: what happened, in one sentence without a trailing newline.
        cause: why it happened, if known.
        hint: what to do next, usually a command.
    """

    exit_code = 1

    def __init__(self, message: str, *, cause: str | None = None, hint: str | None = None) -> None:
        self.message = redact(message)
        self.cause = redact(cause) if cause else cause
        self.hint = redact(hint) if hint else hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.cause, self.hint) if part)

    @classmethod
    def get_name(cls) -> str:
        """Return the stable name of this kind of error: that of its class, such as `repo_not_found`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).lower()


class BadInputError(HfModelsError):
    """An input from the caller is invalid, such as a malformed ref, size, setting or option."""

    exit_code = 2


class UsageError(BadInputError):
    """The words of a command line are invalid, such as an unknown option or a missing argument."""


class BadKeyError(BadInputError):
    """A key or certificate can't be used for signatures, or its passphrase is wrong."""


class BadRefError(BadInputError):
    """The name is not a valid model ref, or the file name could leave its folder."""


class NotFoundError(HfModelsError):
    """Something that the caller named does not exist."""


class RepoNotFoundError(NotFoundError):
    """The repo does not exist, or the token can't see it. The Hub does not distinguish these two."""


class RevisionNotFoundError(NotFoundError):
    """The repo does not have this branch, tag or commit."""


class FileNotFoundInRepoError(NotFoundError):
    """The repo does not have this file at the revision."""


class QuantNotFoundError(NotFoundError):
    """The repo does not have this quantization; the hint lists the available ones."""


class NoGgufError(NotFoundError):
    """The repo has no GGUF file."""


class UnknownSignerError(NotFoundError):
    """No trusted signer has this number or owner."""


class UnknownModelError(NotFoundError):
    """No local model has this name."""


class UnknownCollectionError(NotFoundError):
    """No collection has this name, or the collection does not have this member."""


class CircularCollectionError(BadInputError):
    """A collection would contain itself; the cause has the path."""


class AmbiguousNameError(BadInputError):
    """The name matches several local models; the cause lists them."""


class NameTakenError(BadInputError):
    """The alias already belongs to another model."""


class AccessError(HfModelsError):
    """The Hub refuses access with the current token, or without one.

    Attributes:
        is_gated: Whether the reason is that the owners of the repo have to grant access.
    """

    is_gated = False


class TokenMissingError(AccessError):
    """The repo is private or gated, and there is no token."""


class TokenInvalidError(AccessError):
    """The Hub does not accept the token."""


class GatedRepoError(AccessError):
    """The repo is gated, and the token's owner has not been granted access."""

    is_gated = True


class NetworkError(HfModelsError):
    """The Hub or the storage host could not be reached, or its response was invalid."""


class OfflineError(NetworkError):
    """Offline mode is on, or there is no network."""


class ProxyRefusedError(OfflineError):
    """A proxy requires authentication. Retrying without its password does not help."""


class TimedOutError(NetworkError):
    """No response arrived within the time limit."""


class RateLimitedError(NetworkError):
    """HTTP 429: too many requests. `retry_after` is the wait that the server requests, in seconds."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.retry_after = retry_after


class HubUnavailableError(NetworkError):
    """The Hub failed to process a request, or its response is not in the Hub's format."""


class MissingHeadersError(HubUnavailableError):
    """huggingface_hub needs headers that a response lacks. The package's own transfer needs only the digest."""


class HubServerError(HubUnavailableError):
    """The Hub reports a temporary error (HTTP 5xx or 408), so a retry may succeed."""


class TlsError(NetworkError):
    """The server's certificate was rejected. The request is not retried."""


class RedirectRefusedError(NetworkError):
    """A host redirected to an address that must not be requested. The request is not retried."""


class StorageError(HfModelsError):
    """A disk operation failed."""


class DiskFullError(StorageError):
    """Not enough disk space. `missing_bytes` is how much more is needed."""

    def __init__(
        self, message: str, *, missing_bytes: int = 0, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.missing_bytes = missing_bytes


class NotWritableError(StorageError):
    """No permission to write to a file or folder."""


class VerificationError(HfModelsError):
    """A downloaded or stored file failed verification."""


class DigestMismatchError(VerificationError):
    """The file's digest differs from the Hub's record, or the file is not the one that the model ref names."""


class FileChangedError(VerificationError):
    """The file changed on the Hub during a download, or on disk after verification. Versions are never combined."""


class InvalidGgufError(VerificationError):
    """The file is not GGUF or breaks the format's rules. `code` is the rule's documented name."""

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


class BadSignatureError(VerificationError):
    """A signature file is not in the OMS format or contradicts itself, or something can't be signed in that format."""


class SlowHeaderError(VerificationError):
    """A model's header could not be read within its time limit, so it was not checked."""


class NewVersionError(VerificationError):
    """A new version of a model failed a test and did not replace the current one."""


class MissingFileError(VerificationError):
    """A recorded file no longer exists on disk."""


class PolicyError(HfModelsError):
    """A setting forbids this; the hint names the setting."""


class ConsentError(PolicyError):
    """An agent attempts an action that needs a person's consent first."""


class SignatureRefusedError(HfModelsError):
    """A repo's signature contradicts its files, or is not the one that the settings require."""


class UnsafeFileError(PolicyError):
    """A scanner of the Hub reports the file as unsafe."""


class LibraryError(HfModelsError):
    """The library file could not be used."""


class LibraryDamagedError(LibraryError):
    """The library file is not a readable SQLite database."""


class LibraryTooNewError(LibraryError):
    """The library file was written by a newer version of this package."""


class LockfileError(BadInputError):
    """A lockfile can't be read, or a part of it is not valid."""


class LockfileTooNewError(LockfileError):
    """The lockfile was written by a newer version of this package."""


class LibraryBusyError(LibraryError):
    """Another process kept the library file locked for too long."""


class EngineError(HfModelsError):
    """The llama.cpp process, or the remote endpoint that replaces it, failed."""


class EngineStartError(EngineError):
    """The engine did not start; the cause has the errors from its log."""


class EngineResourceError(EngineStartError):
    """The engine ran out of time or memory while it started, which a busy machine can cause."""


class ModelTooLargeError(EngineError):
    """The model does not fit this machine's free memory. Raised before loading."""


class EngineLostError(EngineError):
    """The engine or remote endpoint stopped responding, or its response is not in OpenAI's protocol."""


class EngineRequestError(EngineError):
    """The engine returned an error, such as for an invalid option or a prompt larger than the context."""

    status: int | None = None  # the HTTP status, or the code in the response; None if the endpoint refused the key


class TemplateRefusedError(EngineRequestError):
    """The model's chat template refused the conversation; the cause is the template's own message."""


class InterruptedByUserError(HfModelsError):
    """The person pressed Ctrl-C, or the caller set the stop event. Completed work is kept."""

    exit_code = 130


class DeclinedError(InterruptedByUserError):
    """The person answered no, so that nothing was changed."""

    exit_code = 1


class KeychainError(HfModelsError):
    """The token could not be stored or read."""


class KeychainTimeoutError(KeychainError):
    """The operating system's keychain did not respond."""


class NotModifiedError(HfModelsError):
    """HTTP 304: the response with the caller's ETag is still current. This is not a failure."""
