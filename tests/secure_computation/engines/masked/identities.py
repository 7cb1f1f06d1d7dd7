"""Sessions between parties with certificates, that sign."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from authority.enrolment import create_request, install_certificate, locate_credentials
from authority.signing import create_authority
from authority.vouching import Signer
from contract.identity import Party, Role
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose, TicketClaims
from secure_computation.channel.memory import CRYPTO_PROVIDER, DATA_OWNER, MODEL_OWNER
from secure_computation.channel.tls import tls_context
from secure_computation.channel.trust import Trust
from secure_computation.deal_tag import derive_deal_tag
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.session_statements import DecoySigning, SessionSigning, SessionWitness
from tests.secure_computation.engines.masked.parties import ITEM, Image, Model, parties_of
from tests.secure_computation.engines.masked.sessions import Session
from tests.secure_computation.networks import random_weights, small_network
from tests.signed_requests import sign_request

NETWORK = small_network(16)
WEIGHTS = random_weights(NETWORK)
IMAGES: Image = np.random.default_rng(5).normal(size=(2, *NETWORK.input_shape)).astype(np.float32)
OTHER = Party(role=Role.DATA_OWNER, organisation="elsewhere")
NOW = datetime.now(UTC)
CLAIMS = TicketClaims(
    jti=UUID(int=1),
    session=UUID(int=2),
    purpose=Purpose.DIAGNOSE,
    account="test",
    model="small",
    version="1.0.0",
    plan_hash="0" * 64,
    card_hash="0" * 64,
    engine=Engine.MASKED,
    data_owner=DATA_OWNER.organisation,
    model_owner=MODEL_OWNER.organisation,
    crypto_provider=CRYPTO_PROVIDER.organisation,
    output_policy=OutputPolicy.LOGITS,
    iat=int(NOW.timestamp()),
    exp=int(NOW.timestamp()) + 600,
)


def lowered(*, label_only: bool = False) -> Model:
    lowering = lower_masked(NETWORK, WEIGHTS, IMAGES, label_only=label_only)
    return Model(NETWORK, lowering, round_weights(lowering, WEIGHTS), IMAGES)


MODEL = lowered()


@dataclasses.dataclass(frozen=True)
class Identities:
    authority: Path
    """Its certificate."""
    trust: Trust
    signers: Mapping[Party, Signer]

    def session(
        self, *, by: Party = DATA_OWNER, claims: TicketClaims = CLAIMS, model: Model = MODEL, **changes: Any
    ) -> tuple[Session, SessionWitness]:
        """A session that P0 signs as `by`, for a ticket that says `claims`."""
        witness = SessionWitness(claims=CLAIMS, trust=self.trust)
        signing = SessionSigning(claims=claims, signer=self.signers[by])
        fields: dict[str, Any] = {"parties": parties_of(model), "signing": signing} | changes
        session = Session(image=IMAGES[0], witness=witness, **fields)
        dealt = DecoySigning(claims=CLAIMS, signer=self.signers[CRYPTO_PROVIDER])
        session.sign_decoy = partial(dealt.sign, item=ITEM, deal_tag=derive_deal_tag(session.seeds, ITEM))
        return session, witness


def enrol_identities(folder: Path) -> Identities:
    """A new federation of four parties."""
    create_authority(folder / "authority")
    found = {}
    for party in (DATA_OWNER, OTHER, MODEL_OWNER, CRYPTO_PROVIDER):
        own = folder / party.organisation
        request = create_request(party, own)
        (own / "signed.pem").write_bytes(sign_request(folder / "authority", request))
        install_certificate(party, own, own / "signed.pem", authority=folder / "authority" / "authority.pem")
        found[party] = locate_credentials(party, own)
    files = dataclasses.replace(found[MODEL_OWNER], revocations=None)
    return Identities(
        authority=folder / "authority" / "authority.pem",
        trust=tls_context(files, server_side=True).trust(),
        signers={party: Signer.of(files) for party, files in found.items()},
    )
