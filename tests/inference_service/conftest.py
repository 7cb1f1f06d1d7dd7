"""A front end on a fresh data folder, with a clock that the test moves and a log that it can read."""

import asyncio
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from bookkeeping.audit_log import AuditLog
from contract.api import ModelRegistration
from contract.ticket import new_signing_key
from inference_service.accounts import Account, AccountRole, Accounts
from inference_service.app import Components, create_app
from inference_service.log import new_log
from inference_service.settings import DATABASE_FILE, ServiceSettings
from inference_service.storage import Database
from plumbing.settings import Address
from tests.inference_service.builders import registration


@dataclass
class MovableClock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass(frozen=True)
class FrontEnd:
    """The app in this process; each call runs it to its end."""

    app: FastAPI
    clock: MovableClock
    log: io.StringIO
    settings: ServiceSettings

    @property
    def service(self) -> Components:
        service = self.app.state.service
        assert isinstance(service, Components)
        return service

    def account(self, role: AccountRole, organisation: str) -> tuple[Account, str]:
        account, key = self.service.accounts.add(role=role, organisation=organisation)
        return account, key.get_secret_value()

    def ask(self, method: str, path: str, *, key: str | None = None, **arguments: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        headers |= arguments.pop("headers", {})

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://front-end") as client:
                return await client.request(method, path, headers=headers, **arguments)

        return asyncio.run(call())


@dataclass(frozen=True)
class Keys:
    """API keys of one account of each kind."""

    clinician: str
    colleague: str
    """Another account of the clinician's organisation."""
    stranger: str
    """A clinician elsewhere."""
    model_owner: str
    other_model_owner: str
    operator: str
    crypto_provider: str
    gateway: str
    """A machine of the clinician's organisation."""


ACCOUNTS = {
    "clinician": (AccountRole.CLINICIAN, "st-mary"),
    "colleague": (AccountRole.CLINICIAN, "st-mary"),
    "stranger": (AccountRole.CLINICIAN, "elsewhere"),
    "model_owner": (AccountRole.MODEL_OWNER, "north-lab"),
    "other_model_owner": (AccountRole.MODEL_OWNER, "south-lab"),
    "gateway": (AccountRole.GATEWAY, "st-mary"),
    "operator": (AccountRole.OPERATOR, "federation"),
    "crypto_provider": (AccountRole.CRYPTO_PROVIDER, "trust-centre"),
}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keys]:
    """A data folder with its signing key and accounts, made once: each test works on a copy."""
    folder = tmp_path_factory.mktemp("template")
    new_signing_key(folder)
    database = Database(folder / DATABASE_FILE)
    accounts = Accounts(database, audit=AuditLog(folder / "audit", keep_days=1))
    made = {name: accounts.add(role=role, organisation=organisation) for name, (role, organisation) in ACCOUNTS.items()}
    database.close()
    return folder, Keys(**{name: key.get_secret_value() for name, (_, key) in made.items()})


@pytest.fixture
def keys(template: tuple[Path, Keys]) -> Keys:
    return template[1]


@pytest.fixture
def settings(tmp_path: Path, template: tuple[Path, Keys]) -> ServiceSettings:
    shutil.copytree(template[0], tmp_path / "data")
    return ServiceSettings(
        data_folder=tmp_path / "data", listen=Address(host="127.0.0.1", port=0), live_sessions_per_account=4
    )


@pytest.fixture
def front_end(settings: ServiceSettings) -> Iterator[FrontEnd]:
    clock, log = MovableClock(), io.StringIO()
    front_end = FrontEnd(create_app(settings, clock=clock, log=new_log(log)), clock, log, settings)
    yield front_end
    front_end.service.database.close()


@pytest.fixture
def registered(front_end: FrontEnd, keys: Keys) -> ModelRegistration:
    """A model in service."""
    body = registration()
    answer = front_end.ask(
        "PUT", "/v2/models/resnet/versions/1.0.0", key=keys.model_owner, json=body.model_dump(mode="json")
    )
    assert answer.status_code == 200, answer.text
    return body
