"""A model whose card says `label-only`: one word for the clinician, through all parties, and nothing beside it."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from contract.api import SessionState
from contract.errors import EncryptedInferenceError, PeerViolation
from contract.model_card import OutputPolicy
from contract.ticket import Engine
from data_owner.diagnosis import Diagnosis
from data_owner.presentation import print_diagnosis
from demonstration.plaintext import PlaintextModel
from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.label import LabelAsP1
from secure_computation.ring import reduce_to_bits
from tests.end_to_end.federation import SILENT, Federation, running_federation
from tests.end_to_end.models import CLASSES, class_answer, radiograph


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running_federation(tmp_path_factory.mktemp("labels"), output_policy=OutputPolicy.LABEL_ONLY) as federation:
        yield federation


def diagnose(federation: Federation, path: Path, engine: Engine = Engine.MASKED) -> Diagnosis:
    with federation.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        return diagnoser.diagnose(path, entry, engine=engine, force=False, progress=SILENT)


def test_the_label_is_the_models_and_comes_alone(labels: Federation, tmp_path: Path) -> None:
    plaintext = PlaintextModel(labels.folder / "model")
    for seed in range(3):
        path = radiograph(tmp_path / f"{seed}.dcm", seed=seed)
        diagnosis = diagnose(labels, path)
        assert class_answer(diagnosis).label == CLASSES[int(plaintext.logits_of_file(path).argmax())]
        shown = json.loads(diagnosis.model_dump_json())
        assert shown["diagnosis"] == {
            "task": "classification",
            "label": class_answer(diagnosis).label,
            "probabilities": None,
            "uncertain": False,
        }
        assert shown["calibration"] is None
        assert shown["logits"] is None


def test_the_terminal_shows_the_label_alone(labels: Federation, tmp_path: Path) -> None:
    diagnosis = diagnose(labels, radiograph(tmp_path / "chest.dcm"))
    output = StringIO()
    print_diagnosis(Console(file=output, width=200), diagnosis, labels.model.card)
    text = output.getvalue()
    assert "The model's owner gives the label only." in text
    assert "%" not in text
    assert not any(name in text for name in CLASSES if name != class_answer(diagnosis).label)


def test_the_other_engine_is_not_offered(labels: Federation, tmp_path: Path) -> None:
    assert labels.entry is not None
    assert labels.entry.engines == (Engine.MASKED,)
    with pytest.raises(EncryptedInferenceError, match="crypten"):
        diagnose(labels, radiograph(tmp_path / "chest.dcm"), Engine.CRYPTEN)


def test_a_stocked_item_gives_a_label_too(labels: Federation, tmp_path: Path) -> None:
    path = radiograph(tmp_path / "chest.dcm")
    expected = diagnose(labels, path).diagnosis
    with labels.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        diagnoser.stock(entry, engine=Engine.MASKED, progress=SILENT)
        diagnosis = diagnoser.diagnose(path, entry, engine=Engine.MASKED, force=False, progress=SILENT)
    assert diagnosis.stocked
    assert diagnosis.diagnosis == expected


def test_a_spoilt_label_is_refused_after_the_session_has_ended_as_always(
    labels: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model owner must not see from the end of a session whether its change made a difference."""
    original = LabelAsP1.label

    def spoilt(part: LabelAsP1) -> Bundle:
        return Bundle(bits=(reduce_to_bits(original(part).bits[0].values ^ np.uint8(1)),))

    monkeypatch.setattr(LabelAsP1, "label", spoilt)
    with labels.diagnoser() as (diagnoser, client):
        with pytest.raises(PeerViolation, match="what was opened is no label: north-lab or the crypto provider"):
            diagnoser.diagnose(
                radiograph(tmp_path / "chest.dcm"),
                diagnoser.choose_model(None),
                engine=Engine.MASKED,
                force=False,
                progress=SILENT,
            )
        assert client.session(client.opened[0].id).state is SessionState.COMPLETED
