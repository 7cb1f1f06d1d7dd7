"""The front end names a stocked item in one ticket and no other, whoever asks and whatever became of the session."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from bookkeeping.audit_log import read_log
from contract.api import SessionEvent, SessionRequest
from contract.api import SessionEventName as Event
from contract.errors import BudgetSpent, ItemsSeen
from contract.identity import Party, Role
from contract.ticket import PUBLIC_KEY_FILE, Engine, Purpose, load_public_key, verify_ticket
from inference_service.accounts import Account
from tests.inference_service.conftest import FrontEnd, Keys
from tests.inference_service.test_budgets import allowed, serve

FIRST, SECOND, THIRD = ("1" * 64, "2" * 64, "3" * 64)


def request_for(*items: str) -> SessionRequest:
    return SessionRequest(model="resnet", engine=Engine.MASKED, images=max(1, len(items)), items=items)


@pytest.fixture
def accounts(front_end: FrontEnd, keys: Keys) -> dict[str, Account]:
    found = {name: front_end.service.accounts.authenticate(key) for name, key in vars(keys).items()}
    serve(front_end, found, None)
    return found


def test_the_ticket_names_what_was_asked_for(front_end: FrontEnd, accounts: dict[str, Account]) -> None:
    for items in ((FIRST,), (), (THIRD, SECOND)):
        view = front_end.service.sessions.open(accounts["clinician"], request_for(*items))
        claims = verify_ticket(
            view.ticket or "",
            public_keys=[load_public_key(front_end.settings.data_folder / PUBLIC_KEY_FILE)],
            now=front_end.clock(),
            party=Party(role=Role.MODEL_OWNER, organisation="north-lab"),
        )
        assert claims.items == items


@pytest.mark.parametrize("ending", [None, Event.CANCEL])
def test_an_item_is_named_once(front_end: FrontEnd, accounts: dict[str, Account], ending: Event | None) -> None:
    sessions = front_end.service.sessions
    view = sessions.open(accounts["clinician"], request_for(FIRST, SECOND))
    if ending is not None:
        sessions.apply(accounts["clinician"], view.id, SessionEvent(event=ending))
    for who in ("clinician", "colleague", "stranger"):
        for items in ((FIRST,), (SECOND,), (THIRD, SECOND)):
            with pytest.raises(ItemsSeen, match="was named for an earlier session and is used once only: name others"):
                sessions.open(accounts[who], request_for(*items))
    sessions.open(accounts["clinician"], request_for(THIRD))  # of a refused session nothing was kept


def test_a_refusal_costs_no_budget_and_is_recorded_once_a_minute(
    front_end: FrontEnd, accounts: dict[str, Account]
) -> None:
    account = allowed(front_end, accounts["clinician"], images=2)
    sessions = front_end.service.sessions
    sessions.open(account, request_for(FIRST))
    for _ in range(5):
        with pytest.raises(ItemsSeen):
            sessions.open(account, request_for(FIRST))
    sessions.open(account, request_for(SECOND))
    with pytest.raises(BudgetSpent):
        sessions.open(account, request_for(THIRD))
    refused = [entry for entry in read_log(front_end.settings.audit_folder) if entry.event == "session-refused"]
    assert [entry.state for entry in refused] == ["items-seen"]
    sessions.open(allowed(front_end, account, images=3), request_for(THIRD))  # beyond the budget it had not been named


def test_of_many_who_name_one_item_at_once_one_may(front_end: FrontEnd, accounts: dict[str, Account]) -> None:
    def attempt(_: int) -> bool:
        try:
            front_end.service.sessions.open(accounts["clinician"], request_for(FIRST))
        except ItemsSeen:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": (FIRST, SECOND)},
        {"items": (FIRST, FIRST), "images": 2},
        {"items": (FIRST,), "images": 2},
        {"items": ("x" * 64,)},
        {"items": (FIRST,), "engine": Engine.CRYPTEN},
        {"items": (FIRST,), "purpose": Purpose.PREPARE},
    ],
)
def test_items_that_a_session_cannot_have(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SessionRequest.model_validate({"model": "resnet", "engine": Engine.MASKED} | wrong)


@pytest.mark.usefixtures("accounts")
def test_over_the_network_it_is_a_conflict_of_its_own_kind(front_end: FrontEnd, keys: Keys) -> None:
    """Which the client raises as ItemsSeen again: tests/end_to_end/test_set_back.py."""
    wanted = {"model": "resnet", "engine": "masked", "items": [FIRST]}
    assert front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=wanted).status_code == 201
    again = front_end.ask("POST", "/v2/sessions", key=keys.colleague, json=wanted)
    assert (again.status_code, again.json()["code"]) == (409, "items-seen")
    short = front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=wanted | {"images": 2})
    assert short.status_code == 422
    assert "as many stocked items as it has images" in short.json()["detail"]
