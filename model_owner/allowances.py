"""What each hospital may use of a model, if the settings say it and if they do not."""

import math
from typing import Final, assert_never

from contract.allowance import Allowance, ModelAllowances
from contract.model_card import ModelCard, OutputPolicy
from contract.violation import MOST_AUDITED
from model_owner.settings import ModelOwnerSettings
from secure_computation.network import Network

DAYS_FOR_A_LAYER: Final = 7
"""How many days of a hospital's answers the last layer shall take at least, by default."""
FEATURES_AN_ANSWER: Final = 2
"""Of how many features one answer can tell the weights of all classes.

A data owner that deviates adds a small error to one feature and a large one to another: both weights stand side by side
in each logit. One more answer is for comparison, so a layer of 512 features takes 257 (docs/threat-model.md, N1).
"""
LEAST_IMAGES: Final = 20
"""A day: fewer are of no use, and a last layer of few features cannot be protected in this way."""


def choose_allowances(settings: ModelOwnerSettings, card: ModelCard, network: Network) -> ModelAllowances:
    """What each hospital may use of one model: what the settings say, and by the card's output policy what they do not.

    What an exception leaves out is as for every hospital; one for the model goes before one for all models.
    """
    images = choose_images_a_day(card.output_policy, network) * settings.allowance.days
    every = Allowance.model_validate({"images": images} | settings.allowance.model_dump(exclude_unset=True))
    fitting = [one for one in settings.allowances if one.model in {None, card.name}]
    own = set(Allowance.model_fields)
    exceptions = {
        one.organisation: every.model_copy(update=one.model_dump(include=own, exclude_unset=True))
        for one in sorted(fitting, key=lambda one: one.model is not None)
    }
    return ModelAllowances(every=every, exceptions=exceptions)


def choose_images_a_day(policy: OutputPolicy, network: Network) -> int:
    """How many images a hospital may have evaluated in a day if the settings do not say."""
    usual = Allowance().images
    match policy:
        case OutputPolicy.LABEL_ONLY:
            return usual
        case OutputPolicy.LOGITS | OutputPolicy.LOGITS_AND_HEAT_MAP:
            answers = _count_last_features(network) // FEATURES_AN_ANSWER + 1
            return min(usual, max(LEAST_IMAGES, answers // DAYS_FOR_A_LAYER))
        case _:
            assert_never(policy)


def choose_audit_share(settings: ModelOwnerSettings, policy: OutputPolicy) -> float:
    """Of the items for one model, the share that are decoys: the most where heat maps give the last layer away in a
    handful of answers, unless the operator wants none.
    """
    return MOST_AUDITED if settings.audit_share and policy is OutputPolicy.LOGITS_AND_HEAT_MAP else settings.audit_share


def _count_last_features(network: Network) -> int:
    """How many values each output of the last layer with weights is a sum over."""
    last = next(one for one in reversed(network.operations) if one.weight_shapes())
    return math.prod(last.weight_shapes()[f"{last.name}.weight"][1:])
