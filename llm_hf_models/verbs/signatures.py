"""The verbs of `Library` about signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.signatures.types import SigningResult
    from llm_hf_models.transfer.types import Event, Progress


def _ignore_event(event: Event) -> None:
    """Ignore a progress event."""


class SignatureVerbs:
    """Signatures of models, in the format of OpenSSF Model Signing (OMS)."""

    _context: Context

    def sign(
        self,
        name: str,
        key: Path | str,
        *,
        certificates: Path | str | None = None,
        output: Path | str | None = None,
        ask_passphrase: Callable[[], str] | None = None,
        overwrite: bool = False,
        dry_run: bool = False,
        progress: Progress = _ignore_event,
    ) -> SigningResult:
        """Sign the files of a local model or of a folder, and write the signature file.

        A file whose recorded digest is still proven is not read again. The signature says which files the owner of the
        key signed, and nothing else about them.

        Args:
            name: A local model, or the path of a folder.
            key: The private key in PEM format: ECDSA on the curve P-256, P-384 or P-521.
            certificates: The certificate of the key and those between it and its root, in PEM format.
            output: The signature file; by default `model.sig` in the folder, or in the current folder for a model.
            ask_passphrase: Returns the passphrase of an encrypted key.
            overwrite: Replace an existing signature file. No other file is ever replaced.
            dry_run: Write nothing, and return what would be signed.
            progress: Called with the progress of hashing.
        """
        from llm_hf_models.models.local import signing

        return signing.sign(
            self._context,
            name,
            Path(key),
            certificates=Path(certificates) if certificates is not None else None,
            output=Path(output) if output is not None else None,
            ask_passphrase=ask_passphrase,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
        )
