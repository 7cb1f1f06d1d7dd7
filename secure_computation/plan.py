"""The plan of a model version: the public network and each engine's lowering of it, under one hash.

Written once by the model owner at import, served by the front end by its hash, read by the data owner and the crypto
provider. Public: it holds shapes and counts, no weight and no image.
"""

import hashlib
from typing import Final, Literal, NewType, Self

from pydantic import ValidationError, model_validator

from contract.api import MAX_PLAN_BYTES
from contract.base import Strict, canonical_json
from contract.errors import ModelFileError
from plumbing.settings import PlanLimits
from secure_computation.crypten_bridge import is_installed, not_installed
from secure_computation.engines.crypten.lowering import CrypTenLowering, lower
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.same_network import require_same_network
from secure_computation.network import Network, describe_invalid
from secure_computation.plan_costs import crypten_cost, masked_cost, require_within

PlanHash = NewType("PlanHash", str)
"""SHA-256 of a plan's canonical bytes, 64 hexadecimal digits."""

_DEFAULT_LIMITS: Final = PlanLimits()


class Lowerings(Strict):
    """One lowering for each engine that can run the network, at least one."""

    crypten: CrypTenLowering | None = None
    """None if CrypTen was not installed where the model was imported."""
    masked: MaskedLowering | None = None
    """None if the network has an operation or a range that the masked engine cannot take."""

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if self.crypten is None and self.masked is None:
            raise ValueError("no engine can run the network")
        return self


class Plan(Strict):
    """What all parties must agree on before they compute together."""

    format: Literal[3] = 3
    """1: before a plan said its arithmetic. 2: before chance near 0 was even-handed in a dithered ReLU."""
    network: Network
    engines: Lowerings

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if self.engines.masked is not None:
            require_same_network(self.network, self.engines.masked)
        return self

    def canonical_bytes(self) -> bytes:
        """The one JSON encoding of this plan."""
        return canonical_json(self)

    def plan_hash(self) -> PlanHash:
        """SHA-256 over `canonical_bytes`; tickets carry it."""
        return hash_plan(self.canonical_bytes())


def hash_plan(data: bytes) -> PlanHash:
    """Hash a plan's bytes as served."""
    return PlanHash(hashlib.sha256(data).hexdigest())


def make_plan(network: Network, masked: MaskedLowering | None = None) -> Plan:
    """Put a network's lowerings together. Takes seconds: the crypten engine, if installed, runs it without values.

    Raises ConfigurationError if the network cannot be run without CrypTen, and that is not installed.
    """
    if not is_installed() and (masked is None or not masked.is_exact):
        raise not_installed("this model")
    return Plan(network=network, engines=Lowerings(crypten=lower(network) if is_installed() else None, masked=masked))


def parse_plan(data: bytes, limits: PlanLimits | None = _DEFAULT_LIMITS) -> Plan:
    """Read a plan from outside. Raises ModelFileError for what is not exactly one valid plan, or costs too much.

    `limits`: the reader's own; None only for the plan of a model that the reader imported itself.

    Whoever uses the crypten lowering calls `require_own_dealing_list` as well; it takes longer.
    """
    if len(data) > MAX_PLAN_BYTES:
        raise ModelFileError(f"plan of {len(data)} bytes exceeds {MAX_PLAN_BYTES}: import the model again")
    try:
        plan = Plan.model_validate_json(data, strict=True)
    except ValidationError as error:
        if any(fault["loc"] == ("format",) for fault in error.errors(include_url=False, include_input=False)):
            raise ModelFileError(
                "plan was made by another version of this program: update all parties to one version, and import the "
                "model again, under a new version of the model"
            ) from error
        raise ModelFileError(f"plan is not valid ({describe_invalid(error)}): import the model again") from error
    if plan.canonical_bytes() != data:
        raise ModelFileError("plan is not in its canonical encoding: import the model again")
    if limits is not None:
        require_affordable(plan, limits)
    return plan


def require_affordable(plan: Plan, limits: PlanLimits) -> None:
    """Raise ModelFileError, naming the setting, if a plan costs more than a party allows."""
    if plan.engines.masked is not None:
        require_within(masked_cost(plan.engines.masked), limits, engine="masked")
    if plan.engines.crypten is not None:
        require_within(crypten_cost(plan.network, plan.engines.crypten), limits, engine="crypten")


def require_own_dealing_list(plan: Plan) -> None:
    """Raise ModelFileError unless the crypten lowering is the one that this version makes of the network.

    So no party deals or computes from a list of its sender's choice. Loads CrypTen, which takes seconds the first time.
    """
    declared = plan.engines.crypten
    if declared is not None and declared != lower(plan.network, most_requests=len(declared.requests)):
        raise ModelFileError("plan's dealing list does not belong to its network: import the model with this version")
