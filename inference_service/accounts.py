"""Accounts and their API keys.

A key is `ei-<prefix>-<secret>`: the prefix (8 hexadecimal digits) finds the account and may be shown to people, the
secret is 256 bits from the operating system. Only SHA-256 of the whole key is stored. A fast hash is enough: nobody
searches 2^256 keys, so the slow hashes made for passwords would only slow every call down.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid4

from pydantic import SecretStr, TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from bookkeeping.audit_log import AuditLog
from contract.allowance import Allowance
from contract.base import Name
from contract.errors import CallerError
from inference_service.problems import NotFound, Unauthenticated
from inference_service.storage import AccountRow, Clock, Database, utc_now

_MAX_KEY_CHARACTERS = 128
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class AccountRole(StrEnum):
    """What an account may do."""

    CLINICIAN = "clinician"
    """Open and report its sessions, see its organisation's: a person at a data owner."""
    GATEWAY = "gateway"
    """Open, report and see its own sessions: a machine of a data owner, that sends images by itself."""
    MODEL_OWNER = "model-owner"
    """Register its models, see their sessions and report their failures."""
    CRYPTO_PROVIDER = "crypto-provider"
    """Read models and plans."""
    OPERATOR = "operator"
    """See every session."""


OPENS_SESSIONS = frozenset({AccountRole.CLINICIAN, AccountRole.GATEWAY})
"""Accounts of data owners. Nobody else is given a ticket."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who calls. No key in it."""

    id: UUID
    role: AccountRole
    organisation: str
    prefix: str
    created_at: datetime
    revoked_at: datetime | None
    allowance: Allowance | None = None
    """Its own; None: that of its role."""


@dataclass(repr=False, eq=False)
class Accounts:
    """The accounts in a database."""

    database: Database
    audit: AuditLog
    clock: Clock = utc_now

    def add(self, *, role: AccountRole, organisation: str) -> tuple[Account, SecretStr]:
        """Make an account and its key, which nobody can ask for again. Raises CallerError for a bad name."""
        try:
            _NAME.validate_python(organisation)
        except ValidationError as error:
            raise CallerError(
                f"organisation {organisation[:64]!r}: write a name of lower-case letters, digits and hyphens"
            ) from error
        prefix = secrets.token_hex(4)
        key = f"ei-{prefix}-{secrets.token_urlsafe(32)}"
        row = AccountRow(
            id=uuid4(),
            role=role.value,
            organisation=organisation,
            prefix=prefix,
            key_sha256=_digest(key),
            created_at=self.clock(),
            revoked_at=None,
        )
        with self.database.write() as session:
            session.add(row)
            session.flush()
            self.audit.record("account-added", account=str(row.id), role=row.role, organisation=row.organisation)
        return _make_account(row), SecretStr(key)

    def authenticate(self, key: str) -> Account:
        """The account of an API key. Raises Unauthenticated, in the same words whatever is wrong with the key."""
        parts = key.split("-", 2)
        prefix = parts[1] if len(parts) == 3 and len(key) <= _MAX_KEY_CHARACTERS else ""
        with self.database.read() as session:
            row = session.scalar(select(AccountRow).where(AccountRow.prefix == prefix))
            stored = row.key_sha256 if row is not None else bytes(32)
            matches = hmac.compare_digest(stored, _digest(key[:_MAX_KEY_CHARACTERS]))
            if row is None or not matches or row.revoked_at is not None:
                raise Unauthenticated("the API key belongs to no account: check it, or ask the operator for a new one")
            return _make_account(row)

    def find(self, prefix: str) -> Account:
        """The account with this prefix or id. Raises NotFound."""
        with self.database.read() as session:
            return _make_account(_find(session, prefix))

    def list(self) -> tuple[Account, ...]:
        """Every account, oldest first."""
        with self.database.read() as session:
            return tuple(
                _make_account(row) for row in session.scalars(select(AccountRow).order_by(AccountRow.created_at))
            )

    def allow(self, prefix: str, allowance: Allowance | None) -> Account:
        """Give an account an allowance of its own; None: its role's. Raises NotFound, CallerError for other roles."""
        with self.database.write() as session:
            row = _find(session, prefix)
            if AccountRole(row.role) not in OPENS_SESSIONS:
                raise CallerError(f"account {row.prefix} is a {row.role}'s and opens no sessions: leave it as it is")
            row.allowance = allowance.model_dump_json() if allowance is not None else None
            self.audit.record("account-allowed", account=str(row.id), organisation=row.organisation)
            return _make_account(row)

    def revoke(self, prefix: str) -> Account:
        """Make the key with this prefix worthless from now on. Raises NotFound."""
        with self.database.write() as session:
            row = _find(session, prefix)
            row.revoked_at = row.revoked_at or self.clock()
            self.audit.record("account-revoked", account=str(row.id), organisation=row.organisation)
            return _make_account(row)


def _find(session: Session, prefix: str) -> AccountRow:
    """The account with this prefix, or this id: audit logs have the latter."""
    by_id = AccountRow.id == UUID(prefix) if _ID.fullmatch(prefix) else AccountRow.prefix == prefix
    row = session.scalar(select(AccountRow).where(by_id))
    if row is None:
        raise NotFound(f"no account has the prefix or id {prefix[:36]!r}: see `inference-service account list`")
    return row


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _make_account(row: AccountRow) -> Account:
    return Account(
        id=row.id,
        role=AccountRole(row.role),
        organisation=row.organisation,
        prefix=row.prefix,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        allowance=Allowance.model_validate_json(row.allowance) if row.allowance is not None else None,
    )
