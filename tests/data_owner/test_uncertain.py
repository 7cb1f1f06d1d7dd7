"""An answer whose largest probability is below the card's threshold."""

import json
from io import StringIO
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from contract.model_card import InputSpecification, Modality, ModelCard, OutputPolicy
from contract.ticket import Engine
from data_owner.diagnosis import Bytes, Diagnosis, Finding, ModelName, Seconds
from data_owner.presentation import print_diagnosis


def card(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0.0",
        "title": "Tiny",
        "intended_use": "tests",
        "input": InputSpecification(
            modalities=(Modality.DX,), height=8, width=8, mean=(0.5,), standard_deviation=(0.25,)
        ),
        "classes": ("normal", "virus"),
        "training": "none",
        "model_sha256": "0" * 64,
    }
    return ModelCard(**fields | changes)


def shown(model: ModelCard, logits: tuple[float, ...]) -> tuple[dict[str, Any], str]:
    """What --json gives, and what the terminal shows."""
    diagnosis = Diagnosis(
        file="chest.dcm",
        model=ModelName(name="tiny", version="1.0.0"),
        engine=Engine.MASKED,
        diagnosis=Finding.from_logits(model, logits),
        logits=logits,
        warnings=(),
        seconds=Seconds(offline=1, online=1),
        bytes=Bytes(online=1, offline=1, data_owner_sent=1, model_owner_sent=1, crypto_provider_sent=1, links=()),
        one_way_trips=1,
    )
    output = StringIO()
    print_diagnosis(Console(file=output, width=100), diagnosis, model)
    return json.loads(diagnosis.model_dump_json())["diagnosis"], output.getvalue()


@pytest.mark.parametrize(
    ("threshold", "logits", "uncertain"),
    [
        (0.8, (1.0, 0.0), True),  # 0.73
        (0.8, (2.0, 0.0), False),  # 0.88
        (0.5, (0.0, 0.0), False),  # an answer that just reaches it
        (None, (0.1, 0.0), False),
    ],
)
def test_json_and_terminal_say_it(threshold: float | None, logits: tuple[float, ...], uncertain: bool) -> None:
    finding, text = shown(card(uncertain_below=threshold), logits)
    assert finding["uncertain"] is uncertain
    assert finding["label"] == "normal"
    assert ("uncertain, most like normal" in text) is uncertain


def test_it_is_judged_on_calibrated_probabilities() -> None:
    assert shown(card(uncertain_below=0.8, calibration_temperature=0.5), (1.0, 0.0))[0]["uncertain"] is False
    assert shown(card(uncertain_below=0.8, calibration_temperature=2), (2.0, 0.0))[0]["uncertain"] is True


@pytest.mark.parametrize("wrong", [0, 1, -0.5, 1.5, float("nan")])
def test_a_threshold_is_a_probability(wrong: float) -> None:
    with pytest.raises(ValidationError, match="uncertain_below"):
        card(uncertain_below=wrong)


def test_a_model_that_gives_its_label_only_has_no_threshold() -> None:
    with pytest.raises(ValidationError, match="needs probabilities"):
        card(uncertain_below=0.8, output_policy=OutputPolicy.LABEL_ONLY)
