"""API keys: strong, shown once, stored as a digest, and worthless after revocation."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contract.errors import CallerError
from inference_service.accounts import AccountRole
from inference_service.problems import NotFound, Unauthenticated
from tests.inference_service.conftest import FrontEnd


def test_a_key_finds_its_account(front_end: FrontEnd) -> None:
    for role in AccountRole:
        account, key = front_end.account(role, "st-mary")
        assert front_end.service.accounts.authenticate(key) == account
        assert (account.role, account.organisation) == (role, "st-mary")


def test_a_key_has_256_random_bits_and_a_prefix_for_people(front_end: FrontEnd) -> None:
    made = [front_end.account(AccountRole.CLINICIAN, "st-mary") for _ in range(8)]
    for account, key in made:
        start, prefix, secret = key.split("-", 2)
        assert (start, prefix) == ("ei", account.prefix)
        assert len(secret) == 43  # 32 bytes in base64url
    assert len({key for _, key in made}) == len({account.prefix for account, _ in made}) == 8


def test_only_the_digest_is_stored(front_end: FrontEnd) -> None:
    _, key = front_end.account(AccountRole.CLINICIAN, "st-mary")
    stored = b"".join(file.read_bytes() for file in front_end.settings.data_folder.glob("*.sqlite*"))
    assert hashlib.sha256(key.encode()).digest() in stored
    assert key.encode() not in stored
    assert key.split("-", 2)[2].encode() not in stored


def test_a_new_key_does_not_show_itself(front_end: FrontEnd) -> None:
    account, key = front_end.service.accounts.add(role=AccountRole.OPERATOR, organisation="federation")
    assert key.get_secret_value() not in repr(key) + str(key) + repr(account)


def test_wrong_keys_are_refused_in_the_same_words(front_end: FrontEnd) -> None:
    account, key = front_end.account(AccountRole.CLINICIAN, "st-mary")
    _, other = front_end.account(AccountRole.CLINICIAN, "st-mary")
    wrong = [
        "",
        key[:-1],
        key + "A",
        key.upper(),
        f"ei-{account.prefix}-",
        f"ei-{account.prefix}-{other.split('-', 2)[2]}",
        f"ei-00000000-{key.split('-', 2)[2]}",
        key * 1000,
    ]
    words = set()
    for candidate in wrong:
        with pytest.raises(Unauthenticated) as caught:
            front_end.service.accounts.authenticate(candidate)
        words.add(str(caught.value))
    assert len(words) == 1


@hypothesis_settings(max_examples=25)
@given(key=st.text(max_size=200))
def test_garbage_is_never_an_account(front_end: FrontEnd, key: str) -> None:
    with pytest.raises(Unauthenticated):
        front_end.service.accounts.authenticate(key)


def test_a_revoked_key_is_worthless(front_end: FrontEnd) -> None:
    accounts = front_end.service.accounts
    account, key = front_end.account(AccountRole.CLINICIAN, "st-mary")
    assert accounts.revoke(account.prefix).revoked_at == front_end.clock()
    with pytest.raises(Unauthenticated):
        accounts.authenticate(key)
    when = front_end.clock()
    front_end.clock.move(hours=1)
    assert accounts.revoke(account.prefix).revoked_at == when  # the first time stands
    assert {listed.revoked_at for listed in accounts.list() if listed.id == account.id} == {when}
    assert {listed.revoked_at for listed in accounts.list() if listed.id != account.id} == {None}
    with pytest.raises(NotFound):
        accounts.revoke("ffffffff")


@pytest.mark.parametrize("organisation", ["", "St Mary", "a" * 65, "-x", "x\n"])
def test_an_organisation_has_a_plain_name(front_end: FrontEnd, organisation: str) -> None:
    with pytest.raises(CallerError):
        front_end.account(AccountRole.CLINICIAN, organisation)
