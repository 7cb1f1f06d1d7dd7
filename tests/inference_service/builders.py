"""Cards and registrations to test with."""

import hashlib
from typing import Any

from contract.api import ModelRegistration, PartyAddress, Voucher
from contract.model_card import InputSpecification, Modality, ModelCard
from contract.ticket import Engine

PLAN = '{"operations": ["conv"], "note": "bytes are kept as they are:  é"}'
PROVIDER = PartyAddress(organisation="trust-centre", address="wss://dealer.trust-centre.example")


VOUCHER = Voucher(certificate="not looked at by the front end", signature="30" * 70)


def card(*, name: str = "resnet", version: str = "1.0.0", title: str = "A test") -> ModelCard:
    return ModelCard(
        name=name,
        version=version,
        title=title,
        intended_use="tests",
        input=InputSpecification(
            modalities=(Modality.DX,), height=224, width=224, mean=(0.5,), standard_deviation=(0.25,)
        ),
        classes=("normal", "bacteria", "virus"),
        training="none",
        model_sha256="0" * 64,
    )


def registration(*, plan: str = PLAN, **changes: Any) -> ModelRegistration:
    fields: dict[str, Any] = {
        "card": card(),
        "plan": plan,
        "plan_hash": hashlib.sha256(plan.encode()).hexdigest(),
        "engines": (Engine.CRYPTEN,),
        "address": "wss://inference.north-lab.example/session",
        "crypto_provider": PROVIDER,
        "voucher": VOUCHER,
    }
    return ModelRegistration(**(fields | changes))
