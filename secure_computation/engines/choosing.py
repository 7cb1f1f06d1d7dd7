"""Which engine evaluates a plan: makes the side of a session that a ticket names.

What loads CrypTen or torch is imported where it is needed: the data owner answers from its stock without either.
"""

import logging
from typing import Any

from contract.errors import Refused
from contract.model_card import OutputPolicy
from contract.ticket import BATCHED_ENGINES, Engine
from secure_computation.crypten_bridge import is_installed, not_installed
from secure_computation.engines.crypten.lowering import CrypTenLowering
from secure_computation.engines.interface import DataOwnerSide, DealerSide, ModelOwnerSide
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import CrypTenStep
from secure_computation.engines.masked.session.costs import most_images
from secure_computation.engines.masked.session.sides import DeltaStore, MaskedDataOwner, MaskedDealer, MaskedModelOwner
from secure_computation.engines.masked.session.step_shapes import activation_shape
from secure_computation.kernels import comparing, elementwise, linear
from secure_computation.plan import Plan, require_own_dealing_list
from secure_computation.private_weights import PrivateWeights
from secure_computation.randomness import Seed

_LOG = logging.getLogger(__name__)


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
    lowerings = {Engine.MASKED: plan.engines.masked, Engine.CRYPTEN: plan.engines.crypten}
    return tuple(engine for engine, lowering in lowerings.items() if lowering is not None)


def servable_engines(plan: Plan) -> tuple[Engine, ...]:
    """What a model owner offers: the engines of a plan that can run on its machine, the default first.

    Raises ConfigurationError if there is none, because CrypTen, which pip does not install with the rest, is missing.
    """
    found = tuple(engine for engine in offered_engines(plan) if _can_run(plan, engine))
    if not found:
        raise not_installed("this model")
    return found


def _can_run(plan: Plan, engine: Engine) -> bool:
    """Whether this machine has all that an engine needs for a plan that offers it."""
    if is_installed():
        return True
    return engine is Engine.MASKED and _masked(plan).is_exact


def may_be_served_by(plan: Plan, engines: tuple[Engine, ...]) -> bool:
    """Whether a model owner may offer a plan with these engines: all of its own, or all but CrypTen's."""
    offered = offered_engines(plan)
    return engines in {offered, tuple(engine for engine in offered if engine is not Engine.CRYPTEN)}


def require_room(plan: Plan, engine: Engine, images: int) -> None:
    """Raise Refused if a session has more images than its engine and plan allow."""
    if images == 1:
        return
    if engine not in BATCHED_ENGINES:
        raise Refused(f"the engine '{engine.value}' evaluates one image a session; use --engine masked or --batch 1")
    most = most_images(_masked(plan))
    if images > most:
        raise Refused(f"a session of this model has at most {most} images, not {images}; use --batch {most}")


def warm_up(engine: Engine, *, threads: int = 1) -> None:
    """Load what an engine needs for its first session: CrypTen, or compiled loops. Takes seconds.

    `threads`: of one tensor operation of CrypTen's.
    """
    if engine is Engine.CRYPTEN:
        _load_crypten(threads)
    else:
        warm_up_online()
        linear.warm_up()


def warm_up_installed() -> None:
    """Load what a server needs for sessions of the masked engine, and say in its log if another is missing.

    Takes seconds. CrypTen and torch, 200 MB, are loaded by the first session that asks for them.
    """
    warm_up(Engine.MASKED)
    if not is_installed():
        _LOG.info("%s; sessions that ask for it are refused", not_installed())


def _load_crypten(threads: int) -> None:
    import torch

    from secure_computation.crypten_bridge.installation import load_crypten

    load_crypten()
    torch.set_num_threads(threads)


def warm_up_online() -> None:
    """Load what the data owner needs online in the masked engine: compiled loops, and no torch."""
    elementwise.warm_up()
    comparing.warm_up()


def warm_up_for(plan: Plan, engine: Engine) -> None:
    """Load what a plan needs beyond `warm_up`: CrypTen, if a masked plan has steps for it. Takes seconds."""
    if engine is Engine.MASKED and plan.engines.masked is not None:
        for step in plan.engines.masked.steps:
            if isinstance(step, CrypTenStep):
                _ = activation_shape(step).dealing  # found by a dry run of CrypTen, and kept


def dealer_side(plan: Plan, engine: Engine, *, key: Seed, threads: int = 1) -> DealerSide:
    """D's side. `key`: the dealer's own. `threads`, here and below: most that one operation on tensors may use."""
    _require_offered(plan, engine)
    _load_for(plan, engine, threads)
    if engine is Engine.CRYPTEN:
        from secure_computation.engines.crypten.engine import CrypTenDealer

        return CrypTenDealer(_crypten(plan))
    return MaskedDealer(_masked(plan), key=key, threads=threads)


def data_owner_side(plan: Plan, engine: Engine, *, store: DeltaStore, threads: int = 1) -> DataOwnerSide[Any]:
    """P0's side. `store`: where masked weights are kept."""
    _require_offered(plan, engine)
    _load_for(plan, engine, threads)
    if engine is Engine.CRYPTEN:
        from secure_computation.engines.crypten.engine import CrypTenDataOwner

        return CrypTenDataOwner(plan.network, _crypten(plan))
    return MaskedDataOwner(_masked(plan), store=store, threads=threads)


def model_owner_side(
    plan: Plan,
    engine: Engine,
    *,
    weights: PrivateWeights,
    weights_version: str,
    threads: int = 1,
    audit_share: float = 0.0,
) -> ModelOwnerSide[Any]:
    """P1's side. `weights_version`: the public name of these weights, drawn when they were imported.

    `audit_share`: share of items that are decoys, with an engine that has them.
    """
    _require_offered(plan, engine)
    _load_for(plan, engine, threads)
    if engine is Engine.CRYPTEN:
        from secure_computation.engines.crypten.engine import CrypTenModelOwner

        return CrypTenModelOwner(plan.network, weights, _crypten(plan))
    lowering = _masked(plan)
    return MaskedModelOwner(
        lowering,
        round_weights(lowering, weights),
        version=weights_version,
        threads=threads,
        audit_share=audit_share,
    )


def _load_for(plan: Plan, engine: Engine, threads: int) -> None:
    """Load CrypTen if this engine computes any step of this plan with it."""
    if engine is Engine.CRYPTEN or not _masked(plan).is_exact:
        _load_crypten(threads)


def _require_offered(plan: Plan, engine: Engine) -> None:
    if engine not in offered_engines(plan) and output_of(plan) is OutputPolicy.LABEL_ONLY:
        raise Refused(
            f"this model gives labels only, and the engine '{engine.value}' opens logits; use --engine masked"
        )
    if not _can_run(plan, engine):
        masked = engine is Engine.CRYPTEN and plan.engines.masked is not None and plan.engines.masked.is_exact
        advice = "use --engine masked" if masked else "tell its operator"
        raise Refused(f"CrypTen, which this session needs, is not installed at this party: {advice}")


def _crypten(plan: Plan) -> CrypTenLowering:
    if plan.engines.crypten is None:
        raise Refused("the owner of this model does not offer the engine 'crypten'; use --engine masked")
    require_own_dealing_list(plan)
    return plan.engines.crypten


def _masked(plan: Plan) -> MaskedLowering:
    if plan.engines.masked is None:
        raise Refused("this model cannot be evaluated by the masked engine; use --engine crypten")
    return plan.engines.masked
