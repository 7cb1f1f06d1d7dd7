"""Models in service: cards, plans and where their owners listen. Everything here is public to account holders."""

import gzip
import hashlib
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from bookkeeping.audit_log import AuditLog
from contract.allowance import ModelAllowances
from contract.api import ModelEntry, ModelRegistration, PartyAddress, Voucher
from contract.errors import CallerError, ModelWithdrawn, Refused
from contract.model_card import ModelCard
from contract.ticket import Engine
from inference_service.accounts import Account, AccountRole
from inference_service.problems import Conflict, NotFound, TooLarge
from inference_service.storage import Clock, Database, ModelVersionRow, PlanRow, utc_now

MOST_NAMED = 10
"""Models that an error names."""


@dataclass(repr=False, eq=False)
class Catalog:
    """The model versions in a database."""

    database: Database
    audit: AuditLog
    max_plan_bytes: int
    clock: Clock = utc_now

    def register(self, account: Account, *, name: str, version: str, registration: ModelRegistration) -> ModelEntry:
        """Put a version in service, or replace the addresses of one that is.

        The first organisation to use a model's name keeps it. Card and plan of a version never change, because
        tickets and results refer to them.

        Raises:
            Refused: not a model owner's account, or another organisation's name.
            CallerError: path, card, plan and hash do not belong together.
            Conflict: the version exists with another card or plan, or was withdrawn.
            TooLarge: the plan is.
        """
        _require_model_owner(account)
        plan = registration.plan.encode()
        self._check(name, version, registration, plan)
        with self.database.write() as session:
            owner = session.scalar(select(ModelVersionRow.model_owner).where(ModelVersionRow.name == name).limit(1))
            if owner not in {None, account.organisation}:
                raise Refused(f"the model name {name} belongs to another organisation: choose another name")
            row = _find(session, name, version)
            if row is None:
                row = self._new_row(account, registration)
                _store_plan(session, registration.plan_hash, plan)
                session.add(row)
            _require_same(row, registration)
            row.engines = ",".join(registration.engines)
            row.address = registration.address
            row.crypto_provider = registration.crypto_provider.organisation
            row.crypto_provider_address = registration.crypto_provider.address
            allowances = registration.allowances
            row.allowances = allowances.model_dump_json() if allowances is not None else None
            row.voucher = registration.voucher.model_dump_json()
            session.flush()
            self._record("model-registered", row)
            return _make_entry(row)

    def models(self) -> tuple[ModelEntry, ...]:
        """Every version in service: by name, the newest first."""
        with self.database.read() as session:
            rows = session.scalars(select(ModelVersionRow).where(ModelVersionRow.withdrawn_at.is_(None)))
            newest_first = sorted(rows, key=lambda row: _parse_version(row.version), reverse=True)
            return tuple(_make_entry(row) for row in sorted(newest_first, key=lambda row: row.name))

    def model(self, name: str, version: str | None = None) -> ModelEntry:
        """One version in service; the newest by default. Raises NotFound; ModelWithdrawn for one that was."""
        with self.database.read() as session:
            of_this_name = select(ModelVersionRow).where(
                ModelVersionRow.name == name, ModelVersionRow.withdrawn_at.is_(None)
            )
            rows = [row for row in session.scalars(of_this_name) if version in {None, row.version}]
            if not rows:
                _refuse_withdrawn(session, name, version)
                wanted = name if version is None else f"{name} {version}"
                raise NotFound(f"no model {wanted} is in service: {_list_names(session)}")
            return _make_entry(max(rows, key=lambda row: _parse_version(row.version)))

    def allowances(self, name: str, version: str) -> ModelAllowances | None:
        """What a version's owner allows each hospital; None if it leaves that to the front end."""
        with self.database.read() as session:
            row = _find(session, name, version)
            return ModelAllowances.model_validate_json(row.allowances) if row is not None and row.allowances else None

    def plan(self, plan_hash: str) -> bytes:
        """The plan with this SHA-256, also of a version that was withdrawn. Raises NotFound."""
        with self.database.read() as session:
            row = session.get(PlanRow, plan_hash)
            if row is None:
                raise NotFound("no plan has this hash: take the hash from a model's entry")
            return gzip.decompress(row.compressed)

    def withdraw(self, account: Account, *, name: str, version: str) -> None:
        """Take a version out of service for good: no new sessions. Live ones end as they would.

        Raises NotFound for a version that is not this account's organisation's, Refused for another role.
        """
        _require_model_owner(account)
        with self.database.write() as session:
            row = _find(session, name, version)
            if row is None or row.model_owner != account.organisation:
                raise NotFound(f"your organisation has no model {name} {version}: correct the name or the version")
            if row.withdrawn_at is None:
                row.withdrawn_at = self.clock()
                self._record("model-withdrawn", row)

    def _record(self, event: str, row: ModelVersionRow) -> None:
        self.audit.record(
            event,
            organisation=row.model_owner,
            model=row.name,
            version=row.version,
            plan_hash=row.plan_hash,
            card_hash=ModelCard.model_validate_json(row.card).card_hash(),
        )

    def _check(self, name: str, version: str, registration: ModelRegistration, plan: bytes) -> None:
        if (registration.card.name, registration.card.version) != (name, version):
            raise CallerError("the card's name and version differ from the path's: put the card under its own name")
        if len(plan) > self.max_plan_bytes:
            raise TooLarge(f"the plan is longer than {self.max_plan_bytes} bytes: a plan holds shapes, no weights")
        if hashlib.sha256(plan).hexdigest() != registration.plan_hash:
            raise CallerError("plan_hash is not the SHA-256 of the plan: import the model again")

    def _new_row(self, account: Account, registration: ModelRegistration) -> ModelVersionRow:
        return ModelVersionRow(
            name=registration.card.name,
            version=registration.card.version,
            card=registration.card.model_dump_json(),
            plan_hash=registration.plan_hash,
            model_owner=account.organisation,
            registered_at=self.clock(),
            withdrawn_at=None,
        )


def _require_model_owner(account: Account) -> None:
    if account.role is not AccountRole.MODEL_OWNER:
        raise Refused("only a model owner's account may register or withdraw models: use that account's key")


def _find(session: Session, name: str, version: str) -> ModelVersionRow | None:
    wanted = select(ModelVersionRow).where(ModelVersionRow.name == name, ModelVersionRow.version == version)
    return session.scalar(wanted)


def _list_names(session: Session) -> str:
    names = select(ModelVersionRow.name).where(ModelVersionRow.withdrawn_at.is_(None)).distinct()
    found = sorted(session.scalars(names.order_by(ModelVersionRow.name).limit(MOST_NAMED + 1)))
    more = ", ..." if len(found) > MOST_NAMED else ""
    return f"choose one of {', '.join(found[:MOST_NAMED])}{more}" if found else "none is at present"


def _refuse_withdrawn(session: Session, name: str, version: str | None) -> None:
    """Raise ModelWithdrawn if what is asked for was in service once."""
    rows = session.scalars(select(ModelVersionRow).where(ModelVersionRow.name == name)).all()
    found = [row for row in rows if version in {None, row.version} and row.withdrawn_at is not None]
    if not found:
        return
    row = max(found, key=lambda row: _parse_version(row.version))
    others = any(other.withdrawn_at is None for other in rows)
    advice = "choose another version" if others else f"ask {row.model_owner} for another model"
    raise ModelWithdrawn(
        f"{name} {row.version} was withdrawn by its owner, {row.model_owner}, on {row.withdrawn_at:%Y-%m-%d}: {advice}"
    )


def _store_plan(session: Session, plan_hash: str, plan: bytes) -> None:
    if session.get(PlanRow, plan_hash) is None:
        compressed = gzip.compress(plan, compresslevel=6, mtime=0)
        session.add(PlanRow(sha256=plan_hash, length=len(plan), compressed=compressed))
        session.flush()  # the version's foreign key needs it


def _require_same(row: ModelVersionRow, registration: ModelRegistration) -> None:
    if row.withdrawn_at is not None:
        raise Conflict(f"model {row.name} {row.version} was withdrawn: register a new version")
    same_card = ModelCard.model_validate_json(row.card) == registration.card
    if not same_card or row.plan_hash != registration.plan_hash:
        raise Conflict(
            f"model {row.name} {row.version} is registered with another card or plan: raise the card's version"
        )


def _parse_version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _make_entry(row: ModelVersionRow) -> ModelEntry:
    return ModelEntry(
        card=ModelCard.model_validate_json(row.card),
        version=row.version,
        plan_hash=row.plan_hash,
        engines=tuple(Engine(name) for name in row.engines.split(",")),
        model_owner=PartyAddress(organisation=row.model_owner, address=row.address),
        crypto_provider=PartyAddress(organisation=row.crypto_provider, address=row.crypto_provider_address),
        voucher=None if row.voucher is None else Voucher.model_validate_json(row.voucher),
    )
