"""Cards, and diagnoses as a session would end in, without any session."""

from typing import Any

from contract.model_card import InputSpecification, Modality, ModelCard, Task
from contract.ticket import Engine
from data_owner.answers import answer_from_logits
from data_owner.calibration import judge_calibration
from data_owner.diagnosis import Bytes, Diagnosis, ModelName, Seconds, Warned
from imaging.formats import ImageWarning

FINDINGS = ("effusion", "mass", "no-such-thing")


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


def multi_label_card(**changes: Any) -> ModelCard:
    return card(**{"task": Task.MULTI_LABEL, "classes": FINDINGS} | changes)


def diagnosis_of(model: ModelCard, logits: tuple[float, ...], *noticed: ImageWarning) -> Diagnosis:
    return Diagnosis(
        file="chest.dcm",
        model=ModelName(name="tiny", version="1.0.0"),
        engine=Engine.MASKED,
        diagnosis=answer_from_logits(model, logits),
        calibration=judge_calibration(model, noticed),
        logits=logits,
        warnings=tuple(Warned.from_submitted(warning) for warning in noticed),
        seconds=Seconds(offline=1, online=1),
        bytes=Bytes(online=1, offline=1, data_owner_sent=1, model_owner_sent=1, crypto_provider_sent=1, links=()),
        one_way_trips=1,
    )
