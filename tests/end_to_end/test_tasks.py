"""Models whose classes do not compete, through all parties: many sigmoids, and a single logit."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.model_card import Arithmetic, OutputPolicy, Task
from contract.ticket import Engine
from data_owner.answers import FindingsAnswer
from data_owner.diagnosis import Diagnosis
from demonstration.plaintext import PlaintextModel
from imaging.reading import read_model_input
from tests.data_owner.ui.conftest import open_page, settings_of
from tests.end_to_end.federation import SILENT, Federation, running_federation
from tests.end_to_end.float_maps import float_maps, outputs_of_the_file
from tests.end_to_end.models import class_answer, radiograph

FINDINGS = ("Effusion", "Mass", "Pleural_Thickening", "Edema", "Hernia")
THRESHOLDS = {"Effusion": 0.9, "Hernia": 0.3}
EXACT = {"arithmetic": Arithmetic.EXACT}
"""Rounded at random, single places of a heat map stray by what chance does to them."""
MULTI_LABEL = {"task": Task.MULTI_LABEL, "classes": FINDINGS, "thresholds": THRESHOLDS} | EXACT
WITHIN = 0.01
"""Of a probability, from onnxruntime's."""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("findings")
    with running_federation(folder, output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP, model=MULTI_LABEL) as federation:
        yield federation


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    model = {"task": Task.BINARY, "classes": ("no pneumonia", "pneumonia")} | EXACT
    folder = tmp_path_factory.mktemp("binary")
    with running_federation(folder, output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP, model=model) as federation:
        yield federation


def diagnose(federation: Federation, path: Path, engine: Engine, heat_map: Path | None = None) -> Diagnosis:
    with federation.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        return diagnoser.diagnose(path, entry, engine=engine, force=False, progress=SILENT, heat_map=heat_map)


@pytest.mark.parametrize("engine", list(Engine))
def test_json_holds_the_files_own_sigmoids_each_beside_its_threshold(
    findings: Federation, tmp_path: Path, engine: Engine
) -> None:
    path = radiograph(tmp_path / "chest.dcm", seed=3)
    expected = outputs_of_the_file(findings, path)
    assert abs(expected.sum() - 1) > 0.5  # a softmax could not be taken for it
    diagnosis = diagnose(findings, path, engine)
    shown = json.loads(diagnosis.model_dump_json())["diagnosis"]
    assert shown["task"] == "multi-label"
    assert [finding["name"] for finding in shown["findings"]] == list(FINDINGS)
    for finding, probability in zip(shown["findings"], expected, strict=True):
        threshold = THRESHOLDS.get(finding["name"], 0.5)
        assert finding["probability"] == pytest.approx(float(probability), abs=WITHIN)
        assert finding["threshold"] == threshold
        assert abs(probability - threshold) > WITHIN  # else this image would be no test of it
        assert finding["present"] is bool(probability >= threshold)
    assert {finding["present"] for finding in shown["findings"]} == {True, False}


def test_each_finding_has_its_map_and_the_picture_shows_those_that_are_present(
    findings: Federation, tmp_path: Path
) -> None:
    path, target = radiograph(tmp_path / "chest.dcm", seed=3), tmp_path / "map.png"
    diagnosis = diagnose(findings, path, Engine.MASKED, heat_map=target)
    assert isinstance(diagnosis.diagnosis, FindingsAnswer)
    masked = findings.model.plan.engines.masked
    assert masked is not None
    assert masked.heat_map is not None
    assert diagnosis.heat_map is not None
    tensor = read_model_input(path, findings.model.card.input).tensor
    expected = float_maps(findings.folder / "model" / "model.onnx", tensor)
    for name, wanted in zip(FINDINGS, expected, strict=True):
        assert np.abs(np.array(diagnosis.heat_map[name]) - wanted).max() < 2 / masked.heat_map.value.scale
    assert diagnosis.heat_map_file == str(target)
    with Image.open(target) as image:
        across, down = {2: (2, 1), 3: (2, 2), 4: (2, 2)}[len(diagnosis.diagnosis.present)]
        assert image.height == down * (48 + 26)
        assert image.width % across == 0


def test_where_no_finding_is_present_no_picture_is_written_and_a_warning_says_so(tmp_path: Path) -> None:
    target, policy = tmp_path / "map.png", OutputPolicy.LOGITS_AND_HEAT_MAP
    never = MULTI_LABEL | {"thresholds": dict.fromkeys(FINDINGS, 0.999)}
    with running_federation(tmp_path / "never", output_policy=policy, model=never) as federation:
        diagnosis = diagnose(federation, radiograph(tmp_path / "chest.dcm"), Engine.MASKED, heat_map=target)
    assert diagnosis.diagnosis.words == "no finding above its threshold"
    assert [warning.code for warning in diagnosis.warnings] == ["no-heat-map"]
    assert "no heat map was written, since there is no finding above its threshold" in diagnosis.warnings[0].text
    assert not target.exists()
    assert diagnosis.heat_map_file is None
    assert set(diagnosis.heat_map or {}) == set(FINDINGS)


def test_on_the_page_and_in_the_history_each_finding_stands_for_itself(findings: Federation, tmp_path: Path) -> None:
    path = radiograph(tmp_path / "chest.dcm", seed=3, PatientAge="040Y")
    expected = outputs_of_the_file(findings, path)
    with open_page(settings_of(findings, tmp_path / "data-owner")) as page:
        (entry,) = page.ready().drop(path)
        assert page.post(f"/entries/{entry}/submit", confirm="yes").status_code == 204
        page.wait_for(entry, "answered")
        html, history = page.html(entry), page.get("/history").text
        (record,) = page.workplace.history.records()
    for name, probability in zip(FINDINGS, expected, strict=True):
        shown = float(html.split(f'data-class="{name}" data-share="')[1].split('"')[0])
        assert shown == pytest.approx(float(probability), abs=WITHIN)
    assert isinstance(record.answer, FindingsAnswer)
    present = [finding.name for finding in record.answer.present]
    assert f'data-testid="result-label">{", ".join(present)}<' in html
    assert html.count('data-testid="verdict">not present, from') == len(FINDINGS) - len(present)
    assert "they do not add up to 100 %" in html
    assert "names one" not in html
    for shown_page in (html, history):
        assert "older than the model was made for (1 to 5 years) (you submitted it anyway)." in shown_page
        assert ", ".join(present) in shown_page


def test_a_single_logit_becomes_two_classes_with_the_sigmoid_of_it(binary: Federation, tmp_path: Path) -> None:
    path = radiograph(tmp_path / "chest.dcm", seed=3)
    (logit,) = outputs_of_the_file(binary, path)
    probability = 1 / (1 + math.exp(-logit))
    for engine in Engine:
        answer = class_answer(diagnose(binary, path, engine))
        assert answer.task is Task.BINARY
        assert answer.probabilities == pytest.approx(
            {"no pneumonia": 1 - probability, "pneumonia": probability}, abs=WITHIN
        )
        assert answer.label == ("pneumonia" if logit > 0 else "no pneumonia")
    target = tmp_path / "map.png"
    heat_map = diagnose(binary, path, Engine.MASKED, heat_map=target).heat_map
    assert heat_map is not None
    assert np.ptp(heat_map["no pneumonia"]) == 0
    with Image.open(target) as image:
        assert np.ptp(np.asarray(image), axis=2).max() > 30  # of the finding, whatever the label
    plaintext = PlaintextModel(binary.folder / "model")
    np.testing.assert_allclose(plaintext.logits_of_file(path), [0.0, logit], atol=1e-5)
