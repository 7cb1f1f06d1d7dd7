"""How much a hospital may use where the settings do not say: so little that a last layer takes days."""

import pytest

from contract.allowance import Allowance
from contract.model_card import OutputPolicy
from model_owner.allowances import (
    DAYS_FOR_A_LAYER,
    FEATURES_AN_ANSWER,
    LEAST_IMAGES,
    choose_allowances,
    choose_audit_share,
    choose_images_a_day,
)
from model_owner.settings import HospitalAllowance, ModelOwnerSettings
from secure_computation.network import Convolution2d, FullyConnected, Network, Reshape
from tests.inference_service.builders import card

LOGITS, LABEL, HEAT_MAP = OutputPolicy.LOGITS, OutputPolicy.LABEL_ONLY, OutputPolicy.LOGITS_AND_HEAT_MAP


def network(features: int) -> Network:
    """One whose last layer has so many features and 3 classes."""
    flat = Reshape(name="flat", inputs=("input",), shape=(features,))
    last = FullyConnected(name="last", inputs=("flat",), shape=(3,), in_features=features, out_features=3, bias=True)
    return Network(input_shape=(1, 1, features), classes=3, operations=(flat, last), output="last")


def settings(*exceptions: HospitalAllowance, **every: int) -> ModelOwnerSettings:
    """Only what is read here."""
    return ModelOwnerSettings.model_construct(allowance=Allowance(**every), allowances=exceptions)


@pytest.mark.parametrize("features", [256, 512, 1024, 2048])
@pytest.mark.parametrize("policy", [LOGITS, HEAT_MAP])
def test_a_last_layer_takes_a_week_of_a_hospitals_answers(policy: OutputPolicy, features: int) -> None:
    answers = features // FEATURES_AN_ANSWER + 1
    a_day = choose_images_a_day(policy, network(features))
    assert a_day * (DAYS_FOR_A_LAYER - 1) < answers or a_day == LEAST_IMAGES


def test_the_figures_of_the_documents() -> None:
    assert choose_images_a_day(LOGITS, network(512)) == 36
    assert choose_images_a_day(LABEL, network(512)) == 1000
    assert choose_images_a_day(LOGITS, network(4)) == LEAST_IMAGES
    assert choose_images_a_day(LOGITS, network(1 << 16)) == 1000


def test_a_last_layer_may_be_a_convolution() -> None:
    last = Convolution2d(name="last", inputs=("input",), shape=(3, 1, 1), weight_shape=(3, 56, 3, 3), bias=False)
    flat = Reshape(name="flat", inputs=("last",), shape=(3,))
    image = Network(input_shape=(56, 3, 3), classes=3, operations=(last, flat), output="flat")
    assert choose_images_a_day(LOGITS, image) == (56 * 9 // 2 + 1) // 7


def test_what_the_settings_say_holds_and_the_rest_is_by_the_model() -> None:
    def every(**given: int) -> Allowance:
        return choose_allowances(settings(**given), card(), network(512)).every

    assert every() == Allowance(images=36)
    assert every(images=1000) == Allowance(images=1000)
    assert every(items=5) == Allowance(images=36, items=5)
    assert every(days=7) == Allowance(images=7 * 36, days=7)


def test_an_exception_says_what_differs() -> None:
    exceptions = (
        HospitalAllowance(organisation="st-mary", items=0),
        HospitalAllowance(organisation="st-anne", images=200),
    )
    allowances = choose_allowances(settings(*exceptions, sessions_per_minute=7), card(), network(512))
    assert allowances.of("st-mary") == Allowance(images=36, items=0, sessions_per_minute=7)
    assert allowances.of("st-anne") == Allowance(images=200, sessions_per_minute=7)
    assert allowances.of("another") == Allowance(images=36, sessions_per_minute=7)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_where_heat_maps_are_given_half_of_the_items_are_decoys_or_none(share: float) -> None:
    chosen = ModelOwnerSettings.model_construct(audit_share=share)
    assert choose_audit_share(chosen, LOGITS) == choose_audit_share(chosen, LABEL) == share
    assert choose_audit_share(chosen, HEAT_MAP) == (0.5 if share else 0.0)
