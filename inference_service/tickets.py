"""What the front end puts into a ticket."""

from dataclasses import dataclass
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.model_card import ModelCard
from contract.ticket import Engine, Items, NetworkProfile, Purpose, TicketClaims, issue_ticket
from inference_service.storage import SessionRow


@dataclass(repr=False, eq=False)
class TicketOffice:
    """Signs tickets for sessions. Holds the signing key; never shows it."""

    key: Ed25519PrivateKey
    network_profile: NetworkProfile

    def ticket(self, session: SessionRow, *, card: ModelCard, items: Items) -> str:
        """A ticket that lives exactly as long as its session."""
        claims = TicketClaims(
            jti=uuid4(),
            session=session.id,
            purpose=Purpose(session.purpose),
            account=str(session.account_id),
            model=session.model,
            version=session.version,
            plan_hash=session.plan_hash,
            card_hash=card.card_hash(),
            engine=Engine(session.engine),
            data_owner=session.data_owner,
            model_owner=session.model_owner,
            crypto_provider=session.crypto_provider,
            output_policy=card.output_policy,
            images=session.images,
            items=items,
            network_profile=self.network_profile,
            iat=int(session.created_at.timestamp()),
            exp=int(session.expires_at.timestamp()),
        )
        return issue_ticket(claims, self.key)
