"""The verbs of `Library` about trusted signers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.models.signature_types import TrustChange, TrustedSigner


class TrustVerbs:
    """Who may sign the models of which owner. Nobody is trusted just because a signature is present."""

    _context: Context

    def list_trusted_signers(self, owner: str | None = None) -> tuple[TrustedSigner, ...]:
        """List the trusted signers, of one owner or of all."""
        from llm_hf_models.models import trusted_signers

        return trusted_signers.list_trusted_signers(self._context, owner)

    def add_trusted_signer(
        self,
        owner: str,
        *,
        identity: str | None = None,
        issuer: str | None = None,
        key: Path | str | None = None,
        certificate: Path | str | None = None,
        dry_run: bool = False,
    ) -> TrustChange:
        """Trust a signer for the models of an owner. Describe the signer in one of three ways.

        Args:
            owner: The owner on the Hub, such as `ibm-granite`.
            identity: The identity in the certificate of a keyless signature, with `issuer`.
            issuer: The URL of the login service that confirmed the identity.
            key: A file with the public key in PEM format.
            certificate: A file with a root certificate, or with that of the signer, in PEM format.
            dry_run: Change nothing, and return the signer that would be added.
        """
        from llm_hf_models.models import trusted_signers

        request = trusted_signers.SignerRequest(
            identity, issuer, Path(key) if key else None, Path(certificate) if certificate else None
        )
        return trusted_signers.add_trusted_signer(self._context, owner, request, dry_run=dry_run)

    def remove_trusted_signers(self, which: str, *, dry_run: bool = False) -> TrustChange:
        """Remove one trusted signer by its number, or all signers of an owner."""
        from llm_hf_models.models import trusted_signers

        return trusted_signers.remove_trusted_signers(self._context, which, dry_run=dry_run)
