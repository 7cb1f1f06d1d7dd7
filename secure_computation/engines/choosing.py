"""Which engine evaluates a plan: makes the side of a session that a ticket names.

What loads CrypTen or torch is imported where it is needed: the data owner answers from its stock without either.
"""

from typing import Any

from contract.errors import Refused
from contract.model_card import OutputPolicy
from contract.ticket import BATCHED_ENGINES, Engine
from secure_computation.engines.interface import DataOwnerSide, DealerSide, ModelOwnerSide
from secure_computation.engines.masked.plan.crypten_step import CrypTenStep
from secure_computation.engines.masked.plan.integer_weights import round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.batch import most_images
from secure_computation.engines.masked.session.sides import DeltaStore, MaskedDataOwner, MaskedDealer, MaskedModelOwner
from secure_computation.engines.masked.session.step_shapes import activation_shape
from secure_computation.kernels import comparing, elementwise
from secure_computation.kernels.linear import choose_variant
from secure_computation.plan import Plan, require_own_dealing_list
from secure_computation.private_weights import PrivateWeights
from secure_computation.randomness import Seed


def output_of(plan: Plan) -> OutputPolicy:
    """What the data owner learns from a plan: the policy that the card must state."""
    masked = plan.engines.masked
    if masked is None:
        return OutputPolicy.LOGITS
    if masked.gives_label:
        return OutputPolicy.LABEL_ONLY
    return OutputPolicy.LOGITS if masked.heat_map is None else OutputPolicy.LOGITS_AND_HEAT_MAP


def offered_engines(plan: Plan) -> tuple[Engine, ...]:
    """The engines that a plan has lowerings for, the default first.

    Only the masked one can keep to a label. It alone opens heat maps too; the other then gives logits, which is less
    than the card allows.
    """
    if output_of(plan) is OutputPolicy.LABEL_ONLY:
        return (Engine.MASKED,)
    return (Engine.CRYPTEN,) if plan.engines.masked is None else (Engine.MASKED, Engine.CRYPTEN)


def require_room(plan: Plan, engine: Engine, images: int) -> None:
    """Raise Refused where a session has more images than its engine and plan allow."""
    if images == 1:
        return
    if engine not in BATCHED_ENGINES:
        raise Refused(f"the engine '{engine.value}' evaluates one image a session; use --engine masked or --batch 1")
    most = most_images(_masked(plan))
    if images > most:
        raise Refused(f"a session of this model has at most {most} images, not {images}; use --batch {most}")


def warm_up(engine: Engine) -> None:
    """Load what an engine needs for its first session: CrypTen, or torch and compiled loops. Takes seconds."""
    if engine is Engine.CRYPTEN:
        from secure_computation.crypten_bridge.installation import load_crypten

        load_crypten()
    else:
        warm_up_online()
        choose_variant()


def warm_up_online() -> None:
    """Load what the data owner needs online in the masked engine: compiled loops, and no torch."""
    elementwise.warm_up()
    comparing.warm_up()


def warm_up_for(plan: Plan, engine: Engine) -> None:
    """Load what a plan needs beyond `warm_up`: CrypTen, where a masked plan has steps for it. Takes seconds."""
    if engine is Engine.MASKED and plan.engines.masked is not None:
        for step in plan.engines.masked.steps:
            if isinstance(step, CrypTenStep):
                _ = activation_shape(step).dealing  # found by a dry run of CrypTen, and kept


def dealer_side(plan: Plan, engine: Engine, *, key: Seed) -> DealerSide:
    """D's side. `key`: the dealer's own."""
    _require_offered(plan, engine)
    if engine is Engine.CRYPTEN:
        from secure_computation.engines.crypten.sides import CrypTenDealer

        require_own_dealing_list(plan)
        return CrypTenDealer(plan.engines.crypten)
    return MaskedDealer(_masked(plan), key=key)


def data_owner_side(plan: Plan, engine: Engine, *, store: DeltaStore) -> DataOwnerSide[Any]:
    """P0's side. `store`: where masked weights are kept."""
    _require_offered(plan, engine)
    if engine is Engine.CRYPTEN:
        from secure_computation.engines.crypten.sides import CrypTenDataOwner

        require_own_dealing_list(plan)
        return CrypTenDataOwner(plan.network, plan.engines.crypten)
    return MaskedDataOwner(_masked(plan), store=store)


def model_owner_side(
    plan: Plan, engine: Engine, *, weights: PrivateWeights, weights_version: str
) -> ModelOwnerSide[Any]:
    """P1's side. `weights_version`: the public name of these weights, drawn when they were imported."""
    _require_offered(plan, engine)
    if engine is Engine.CRYPTEN:
        from secure_computation.engines.crypten.sides import CrypTenModelOwner

        require_own_dealing_list(plan)
        return CrypTenModelOwner(plan.network, weights, plan.engines.crypten)
    lowering = _masked(plan)
    return MaskedModelOwner(lowering, round_weights(lowering, weights), version=weights_version)


def _require_offered(plan: Plan, engine: Engine) -> None:
    if engine not in offered_engines(plan) and output_of(plan) is OutputPolicy.LABEL_ONLY:
        raise Refused(
            f"this model gives labels only, and the engine '{engine.value}' opens logits; use --engine masked"
        )


def _masked(plan: Plan) -> MaskedLowering:
    if plan.engines.masked is None:
        raise Refused("this model cannot be evaluated by the masked engine; use --engine crypten")
    return plan.engines.masked
