"""Database table of trusted signers: who may sign the models of which owner."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from llm_hf_models.library.sqlite_file import SQLiteFile
from llm_hf_models.system.json_values import UnixTime

Method = Literal["keyless", "key", "certificate"]


@dataclass(frozen=True)
class TrustRow:
    """A person, key or certificate authority that may sign the models of an owner."""

    owner: str
    method: Method
    identity: str | None = None  # with keyless: as the certificate states it
    issuer: str | None = None  # with keyless: who vouches for the identity
    pem: str | None = None  # with key and certificate: the public key, or the certificates
    key: int = 0
    added: UnixTime = 0.0


class TrustTables(SQLiteFile):
    """The part of the database that stores trusted signers."""

    def list_trusted_signers(self) -> list[TrustRow]:
        """Return all trusted signers, sorted by owner and age."""
        rows = self.fetch_rows(
            "select owner, method, identity, issuer, pem, id, added from trusted_signers order by owner, id"
        )
        return [TrustRow(*row) for row in rows]

    def add_trusted_signer(self, row: TrustRow) -> TrustRow:
        """Store a trusted signer. Return the existing row if the same one is stored already."""
        with self.transaction():
            found = next((old for old in self.list_trusted_signers() if _is_same(old, row)), None)
            if found is None:
                self.write(
                    "insert into trusted_signers (owner, method, identity, issuer, pem, added) values (?,?,?,?,?,?)",
                    row.owner, row.method, row.identity, row.issuer, row.pem, time.time(),
                )  # fmt: skip
                found = next(new for new in reversed(self.list_trusted_signers()) if _is_same(new, row))
        return found

    def remove_trusted_signer(self, key: int) -> bool:
        """Remove a trusted signer. Return False if there is none with this key."""
        return bool(self.write("delete from trusted_signers where id = ?", key))


def _is_same(one: TrustRow, other: TrustRow) -> bool:
    return (one.owner.casefold(), one.method, one.identity, one.issuer, one.pem) == (
        other.owner.casefold(), other.method, other.identity, other.issuer, other.pem,
    )  # fmt: skip
