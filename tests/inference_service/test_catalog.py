"""Models in service: who may register what, what never changes, and plans byte for byte."""

import pytest

from contract.api import ModelRegistration, PartyAddress
from contract.errors import CallerError, ModelWithdrawn, Refused
from inference_service.accounts import Account, AccountRole
from inference_service.catalog import Catalog
from inference_service.problems import Conflict, NotFound, TooLarge
from tests.inference_service.builders import PLAN, card, registration
from tests.inference_service.conftest import FrontEnd


@pytest.fixture
def catalog(front_end: FrontEnd) -> Catalog:
    return front_end.service.catalog


@pytest.fixture
def owner(front_end: FrontEnd) -> Account:
    return front_end.account(AccountRole.MODEL_OWNER, "north-lab")[0]


def register(catalog: Catalog, account: Account, body: ModelRegistration) -> None:
    catalog.register(account, name=body.card.name, version=body.card.version, registration=body)


def test_a_registered_version_is_served_as_it_was_given(catalog: Catalog, owner: Account) -> None:
    body = registration()
    register(catalog, owner, body)
    entry = catalog.model("resnet")
    assert entry.card == body.card
    assert entry.model_owner == PartyAddress(organisation="north-lab", address=body.address)
    assert entry.crypto_provider == body.crypto_provider
    assert catalog.models() == (entry,)
    assert catalog.plan(entry.plan_hash) == PLAN.encode()


def test_the_newest_version_is_the_largest_not_the_last(catalog: Catalog, owner: Account) -> None:
    for version in ("1.10.0", "1.9.0", "1.2.3"):
        register(catalog, owner, registration(card=card(version=version)))
    register(catalog, owner, registration(card=card(name="alexnet")))
    assert catalog.model("resnet").version == "1.10.0"
    assert catalog.model("resnet", "1.9.0").version == "1.9.0"
    assert [(entry.card.name, entry.version) for entry in catalog.models()] == [
        ("alexnet", "1.0.0"),
        ("resnet", "1.10.0"),
        ("resnet", "1.9.0"),
        ("resnet", "1.2.3"),
    ]


def test_addresses_may_move_but_card_and_plan_stay(catalog: Catalog, owner: Account) -> None:
    register(catalog, owner, registration())
    register(catalog, owner, registration(address="wss://elsewhere.example"))
    assert catalog.model("resnet").model_owner.address == "wss://elsewhere.example"
    for changed in (registration(card=card(title="Another")), registration(plan='{"operations": []}')):
        with pytest.raises(Conflict, match="raise the card's version"):
            register(catalog, owner, changed)
    assert catalog.model("resnet").card == card()
    assert catalog.plan(catalog.model("resnet").plan_hash) == PLAN.encode()


def test_a_name_belongs_to_who_used_it_first(front_end: FrontEnd, catalog: Catalog, owner: Account) -> None:
    register(catalog, owner, registration())
    other, _ = front_end.account(AccountRole.MODEL_OWNER, "south-lab")
    colleague, _ = front_end.account(AccountRole.MODEL_OWNER, "north-lab")
    with pytest.raises(Refused, match="another organisation"):
        register(catalog, other, registration(card=card(version="2.0.0")))
    register(catalog, colleague, registration(card=card(version="2.0.0")))


@pytest.mark.parametrize("role", sorted(set(AccountRole) - {AccountRole.MODEL_OWNER}))
def test_only_model_owners_register_and_withdraw(front_end: FrontEnd, catalog: Catalog, role: AccountRole) -> None:
    account, _ = front_end.account(role, "north-lab")
    with pytest.raises(Refused, match="model owner"):
        register(catalog, account, registration())
    with pytest.raises(Refused, match="model owner"):
        catalog.withdraw(account, name="resnet", version="1.0.0")


def test_hash_path_and_size_must_fit(front_end: FrontEnd, owner: Account) -> None:
    catalog = Catalog(front_end.service.database, audit=front_end.service.audit, max_plan_bytes=len(PLAN.encode()))
    with pytest.raises(CallerError, match="plan_hash"):
        register(catalog, owner, registration(plan_hash="0" * 64))
    with pytest.raises(CallerError, match="path"):
        catalog.register(owner, name="other", version="1.0.0", registration=registration())
    with pytest.raises(CallerError, match="path"):
        catalog.register(owner, name="resnet", version="1.0.1", registration=registration())
    with pytest.raises(TooLarge, match="plan"):
        register(catalog, owner, registration(plan=PLAN + "é"))
    assert catalog.models() == ()


def test_a_withdrawn_version_is_gone_for_good_but_its_plan_stays(
    front_end: FrontEnd, catalog: Catalog, owner: Account
) -> None:
    register(catalog, owner, registration())
    register(catalog, owner, registration(card=card(version="1.1.0")))
    plan_hash = catalog.model("resnet").plan_hash
    other, _ = front_end.account(AccountRole.MODEL_OWNER, "south-lab")
    with pytest.raises(NotFound):
        catalog.withdraw(other, name="resnet", version="1.1.0")
    catalog.withdraw(owner, name="resnet", version="1.1.0")
    assert catalog.model("resnet").version == "1.0.0"
    with pytest.raises(ModelWithdrawn, match=r"1\.1\.0 was withdrawn by its owner, north-lab, on .*: choose"):
        catalog.model("resnet", "1.1.0")
    with pytest.raises(Conflict, match="withdrawn"):
        register(catalog, owner, registration(card=card(version="1.1.0")))
    catalog.withdraw(owner, name="resnet", version="1.0.0")
    with pytest.raises(ModelWithdrawn, match=r"1\.1\.0 was withdrawn .*: ask north-lab for another model"):
        catalog.model("resnet")
    assert catalog.plan(plan_hash) == PLAN.encode()


def test_an_unknown_model_is_answered_with_those_that_there_are(catalog: Catalog, owner: Account) -> None:
    with pytest.raises(NotFound, match=r"no model nope is in service: none is at present"):
        catalog.model("nope")
    for number in range(12):
        register(catalog, owner, registration(card=card(name=f"m{number:02}")))
    with pytest.raises(NotFound, match=r"no model nope is in service: choose one of m00, .*, m09, \.\.\.$"):
        catalog.model("nope")


def test_a_plan_that_is_not_there(catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        catalog.plan("0" * 64)
