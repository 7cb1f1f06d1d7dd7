"""A model whose card says `label-only`: one word for the clinician, through all parties, and nothing beside it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from contract.api import SessionState
from contract.errors import EncryptedInferenceError, PeerViolation, ReferenceMismatch
from contract.model_card import OutputPolicy
from contract.ticket import Engine
from data_owner.diagnosis import Diagnosis
from data_owner.presentation import print_diagnosis
from data_owner.references import find_references, read_reference
from demonstration.plaintext import PlaintextModel
from model_owner.imported_models import ImportedModel
from secure_computation.private_weights import PrivateWeights
from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.label import LabelAsP1
from secure_computation.ring import reduce_to_bits
from tests.end_to_end.federation import SILENT, Federation, running_federation
from tests.end_to_end.models import CLASSES, class_answer, radiograph
from tests.end_to_end.test_reference_pictures import serving


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    pictures = tmp_path_factory.mktemp("pictures")
    radiograph(pictures / "only.dcm", seed=1)
    with running_federation(
        tmp_path_factory.mktemp("labels"), output_policy=OutputPolicy.LABEL_ONLY, references=pictures
    ) as federation:
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


def spoil_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bit of a label is turned over: two of three classes are named."""
    original = LabelAsP1.label

    def spoilt(part: LabelAsP1) -> Bundle:
        return Bundle(bits=(reduce_to_bits(original(part).bits[0].values ^ np.uint8(1)),))

    monkeypatch.setattr(LabelAsP1, "label", spoilt)


def test_a_spoilt_label_is_refused_after_the_session_has_ended_as_always(
    labels: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model owner must not see from the end of a session whether its change made a difference."""
    spoil_labels(monkeypatch)
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


def send_reference(federation: Federation, **changes: Any) -> Diagnosis | PeerViolation:
    """The answer to the reference picture, judged."""
    assert federation.references is not None
    with federation.diagnoser(**changes) as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        (found,) = find_references(entry, federation.references)
        submission = read_reference(found, entry, diagnoser.catalog.fetch_plan(entry))
        (result,) = diagnoser.submit([submission], entry, engine=Engine.MASKED, progress=SILENT)
    return result


def test_a_reference_picture_is_compared_by_its_label(labels: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    right = send_reference(labels)
    assert isinstance(right, Diagnosis)
    other = CLASSES[(CLASSES.index(class_answer(right).label) + 1) % len(CLASSES)]
    model = with_larger_bias(labels.model, CLASSES.index(other))
    with monkeypatch.context() as patch, serving(labels, model, patch) as url:
        wrong = send_reference(labels, model_owner_url=url)
    assert isinstance(wrong, ReferenceMismatch)
    assert f"signed: '{other}' in place of '{class_answer(right).label}'. Do not rely on this model" in str(wrong)


def with_larger_bias(model: ImportedModel, index: int) -> ImportedModel:
    """A model owner that deviates serves one that mostly answers with this class."""
    weights = {name: np.array(value) for name, value in model.weights.items()}
    last = [name for name in weights if name.endswith("bias")][-1]
    weights[last][index] += 2
    return replace(model, weights=PrivateWeights(model.plan.network, weights), weights_version="ab" * 16)


def test_a_reference_picture_that_gets_no_label_is_a_mismatch(
    labels: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_labels(monkeypatch)
    result = send_reference(labels)
    assert isinstance(result, ReferenceMismatch)
    assert "signed: what was opened is no answer of its plan." in str(result)
