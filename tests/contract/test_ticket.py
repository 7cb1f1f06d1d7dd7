"""Tickets: what is signed comes back; everything else is TicketInvalid, and nothing else."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contract.errors import ConfigurationError, TicketInvalid
from contract.identity import Party, Role
from contract.model_card import OutputPolicy
from contract.ticket import (
    MAX_IMAGES,
    MAX_TICKET_CHARACTERS,
    SIGNING_KEY_FILE,
    TICKET_SECONDS,
    Engine,
    Purpose,
    TicketClaims,
    TicketSeconds,
    issue_ticket,
    load_public_key,
    load_signing_key,
    new_signing_key,
    verify_ticket,
)

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
MODEL_OWNER = Party(role=Role.MODEL_OWNER, organisation="north-lab")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CLAIMS = TicketClaims(
    jti=UUID(int=1),
    session=UUID(int=2),
    purpose=Purpose.DIAGNOSE,
    account="a1",
    model="resnet",
    version="1.0.0",
    plan_hash="0" * 64,
    card_hash="1" * 64,
    engine=Engine.CRYPTEN,
    data_owner="st-mary",
    model_owner="north-lab",
    crypto_provider="trust-centre",
    output_policy=OutputPolicy.LOGITS,
    iat=int(NOW.timestamp()),
    exp=int((NOW + timedelta(minutes=15)).timestamp()),
)


def verify(
    token: str, *, now: datetime = NOW, party: Party = MODEL_OWNER, longest: int = TICKET_SECONDS
) -> TicketClaims:
    return verify_ticket(token, public_keys=[KEY.public_key()], now=now, party=party, longest=longest)


def segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(payload: bytes, *, headers: dict[str, str] | None = None) -> str:
    return jwt.PyJWS().encode(payload, KEY, algorithm="EdDSA", headers=headers or {"typ": "inference-ticket+jwt"})


def changed(**claims: object) -> str:
    return signed(json.dumps(json.loads(CLAIMS.model_dump_json()) | claims).encode())


def test_what_was_issued_comes_back_for_each_party_that_it_names() -> None:
    token = issue_ticket(CLAIMS, KEY)
    for role, organisation in [
        (Role.DATA_OWNER, "st-mary"),
        (Role.MODEL_OWNER, "north-lab"),
        (Role.CRYPTO_PROVIDER, "trust-centre"),
    ]:
        assert verify(token, party=Party(role=role, organisation=organisation)) == CLAIMS


def test_any_one_of_the_pinned_keys_will_do() -> None:
    other = Ed25519PrivateKey.generate()
    keys = [other.public_key(), KEY.public_key()]
    assert verify_ticket(issue_ticket(CLAIMS, KEY), public_keys=keys, now=NOW, party=MODEL_OWNER) == CLAIMS


def test_without_a_pinned_key_nothing_is_accepted() -> None:
    with pytest.raises(ConfigurationError, match="pinned"):
        verify_ticket(issue_ticket(CLAIMS, KEY), public_keys=[], now=NOW, party=MODEL_OWNER)


@pytest.mark.parametrize(
    ("role", "organisation"),
    [
        (Role.MODEL_OWNER, "st-mary"),
        (Role.DATA_OWNER, "north-lab"),
        (Role.CRYPTO_PROVIDER, "north-lab"),
        (Role.INFERENCE_SERVICE, "north-lab"),
    ],
)
def test_a_ticket_for_somebody_else_is_refused(role: Role, organisation: str) -> None:
    with pytest.raises(TicketInvalid, match="somebody else"):
        verify(issue_ticket(CLAIMS, KEY), party=Party(role=role, organisation=organisation))


@pytest.mark.parametrize(
    ("minutes", "seconds", "why"),
    [(15, 29, None), (15, 30, "expired"), (60, 0, "expired"), (0, -30, None), (0, -31, "not yet valid")],
)
def test_times_have_30_seconds_of_leeway(minutes: int, seconds: int, why: str | None) -> None:
    token, now = issue_ticket(CLAIMS, KEY), NOW + timedelta(minutes=minutes, seconds=seconds)
    if why is None:
        assert verify(token, now=now) == CLAIMS
    else:
        with pytest.raises(TicketInvalid, match=why):
            verify(token, now=now)


@pytest.mark.parametrize(("seconds", "longest", "accepted"), [(900, 900, True), (901, 900, False), (60, 59, False)])
def test_a_ticket_lives_no_longer_than_this_party_accepts(seconds: int, longest: int, *, accepted: bool) -> None:
    token = issue_ticket(CLAIMS.model_copy(update={"exp": CLAIMS.iat + seconds}), KEY)
    if accepted:
        assert verify(token, longest=longest).exp == CLAIMS.iat + seconds
    else:
        with pytest.raises(TicketInvalid, match=f"lives for {seconds} s, and the model-owner of north-lab accepts"):
            verify(token, longest=longest)


def test_a_ticket_for_ten_years_is_refused_wherever_now_is() -> None:
    token = issue_ticket(CLAIMS.model_copy(update={"exp": CLAIMS.iat + 10 * 365 * 86400}), KEY)
    for days in (0, 1, 3000):
        with pytest.raises(TicketInvalid, match="lives for 315360000 s"):
            verify(token, now=NOW + timedelta(days=days))


def test_no_party_can_be_told_to_accept_a_ticket_of_more_than_an_hour() -> None:
    bounds = TypeAdapter(TicketSeconds)
    assert bounds.validate_python(3600) == 3600
    for wrong in (3601, 9, 10 * 365 * 86400):
        with pytest.raises(ValidationError):
            bounds.validate_python(wrong)


def _hmac_with_the_public_key() -> str:
    public = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    headers = {"typ": "inference-ticket+jwt"}
    return jwt.PyJWS().encode(CLAIMS.model_dump_json().encode(), public * 2, algorithm="HS256", headers=headers)


def _other_algorithm(algorithm: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed448PrivateKey) -> str:
    headers = {"typ": "inference-ticket+jwt"}
    return jwt.PyJWS().encode(CLAIMS.model_dump_json().encode(), key, algorithm=algorithm, headers=headers)


def _none_algorithm() -> str:
    payload = json.loads(CLAIMS.model_dump_json())
    return f"{segment({'alg': 'none', 'typ': 'inference-ticket+jwt'})}.{segment(payload)}."


def _payload_swapped() -> str:
    header, _, signature = issue_ticket(CLAIMS, KEY).split(".")
    return f"{header}.{segment(json.loads(CLAIMS.model_dump_json()) | {'model_owner': 'mallory'})}.{signature}"


def _deep_header() -> str:
    brackets = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    return f"{brackets}.{segment({})}.AAAA"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: issue_ticket(CLAIMS, Ed25519PrivateKey.generate()), "forged"),
        (_payload_swapped, "forged"),
        (_hmac_with_the_public_key, "forged"),
        (_none_algorithm, "forged"),
        (lambda: _other_algorithm("RS256", rsa.generate_private_key(65537, 2048)), "forged"),
        (lambda: _other_algorithm("ES256", ec.generate_private_key(ec.SECP256R1())), "forged"),
        (lambda: _other_algorithm("EdDSA", Ed448PrivateKey.generate()), "forged"),
        (lambda: "", "malformed"),
        (lambda: "a.b.c", "malformed"),
        (lambda: "a" * (MAX_TICKET_CHARACTERS + 1), "malformed"),
        (lambda: "\ud800", "malformed"),
        (lambda: issue_ticket(CLAIMS, KEY) + ".", "malformed"),
        (_deep_header, "malformed"),
        (lambda: f"{segment({'alg': ['EdDSA']})}.{segment({})}.AAAA", "forged"),
        (lambda: signed(CLAIMS.model_dump_json().encode(), headers={"typ": "JWT"}), "not as a ticket"),
        (lambda: signed(b"{}"), "malformed"),
        (lambda: signed(b"\xff"), "malformed"),
        (lambda: changed(purpose="train"), "claim purpose"),
        (lambda: changed(surprise=1), "claim surprise"),
        (lambda: changed(exp=CLAIMS.iat), "malformed"),
        (lambda: changed(exp=10**30), "malformed"),
        (lambda: changed(images=0), "claim images"),
        (lambda: changed(images=MAX_IMAGES + 1), "claim images"),
        (lambda: changed(images=2, engine="crypten"), "malformed"),
        (lambda: changed(images=2, engine="masked", purpose="prepare"), "malformed"),
        (lambda: changed(iss="mallory"), "claim iss"),
        (lambda: changed(engine="plaintext"), "claim engine"),
        (lambda: changed(plan_hash="A" * 64), "claim plan_hash"),
    ],
)
def test_a_bad_ticket_is_refused_and_the_reason_named(make: Callable[[], str], why: str) -> None:
    token = make()
    with pytest.raises(TicketInvalid, match=why) as caught:
        verify(token)
    assert "\n" not in str(caught.value)
    assert not token or token not in str(caught.value)


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,80}(\.[A-Za-z0-9_-]{0,80}){0,4}", fullmatch=True))
def test_garbage_is_ticket_invalid_and_never_anything_else(token: str) -> None:
    with pytest.raises(TicketInvalid):
        verify(token)


@given(position=st.integers(0, len(issue_ticket(CLAIMS, KEY)) - 1), character=st.sampled_from("AZaz09-_.="))
def test_one_changed_character_is_noticed(position: int, character: str) -> None:
    token = issue_ticket(CLAIMS, KEY)
    altered = token[:position] + character + token[position + 1 :]
    if altered != token:
        with pytest.raises(TicketInvalid):
            verify(altered)


def test_the_largest_claims_fit() -> None:
    name = "a" * 64
    claims = CLAIMS.model_copy(
        update={"model": name, "data_owner": name, "model_owner": name, "crypto_provider": name, "jti": uuid4()}
    )
    assert len(issue_ticket(claims, KEY)) < MAX_TICKET_CHARACTERS / 4


class TestKeyFiles:
    def test_a_new_key_signs_what_its_public_half_verifies(self, tmp_path: Path) -> None:
        public = load_public_key(new_signing_key(tmp_path))
        token = issue_ticket(CLAIMS, load_signing_key(tmp_path / SIGNING_KEY_FILE))
        assert verify_ticket(token, public_keys=[public], now=NOW, party=MODEL_OWNER) == CLAIMS

    def test_only_the_owner_can_read_the_private_key(self, tmp_path: Path) -> None:
        new_signing_key(tmp_path)
        path = tmp_path / SIGNING_KEY_FILE
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o640)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            load_signing_key(path)

    def test_a_key_is_never_overwritten(self, tmp_path: Path) -> None:
        new_signing_key(tmp_path)
        before = (tmp_path / SIGNING_KEY_FILE).read_bytes()
        with pytest.raises(ConfigurationError, match="exists"):
            new_signing_key(tmp_path)
        assert (tmp_path / SIGNING_KEY_FILE).read_bytes() == before

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "nowhere").write_text("a file in its place")
        with pytest.raises(ConfigurationError, match="cannot be written"):
            new_signing_key(tmp_path / "nowhere" / "keys")

    @pytest.mark.parametrize("load", [load_signing_key, load_public_key])
    @pytest.mark.parametrize("content", [None, b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\n", b"x" * 100_000])
    def test_other_files_are_refused(
        self, tmp_path: Path, load: Callable[[Path], object], content: bytes | None
    ) -> None:
        path = tmp_path / "key.pem"
        if content is not None:
            path.write_bytes(content)
            path.chmod(0o600)
        with pytest.raises(ConfigurationError, match=r"key\.pem"):
            load(path)

    def test_another_kind_of_key_is_refused(self, tmp_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        private, public = tmp_path / "private.pem", tmp_path / "public.pem"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        private.chmod(0o600)
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(ConfigurationError, match="another kind"):
            load_signing_key(private)
        with pytest.raises(ConfigurationError, match="another kind"):
            load_public_key(public)
