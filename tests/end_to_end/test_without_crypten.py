"""A machine without CrypTen, which pip cannot install with the rest: every party works, by the masked engine alone."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from contract.errors import CallerError, ConfigurationError, ModelFileError, Refused
from contract.ticket import Engine
from demonstration.plaintext import PlaintextModel
from model_owner.checking import check_model
from model_owner.imported_models import ImportedModels
from secure_computation.crypten_bridge import is_installed
from secure_computation.engines.choosing import dealer_side, offered_engines, servable_engines, warm_up_installed
from secure_computation.plan import parse_plan
from secure_computation.randomness import Seed
from tests.end_to_end.federation import LABORATORY, SEALING, SILENT, Federation, running_federation
from tests.end_to_end.models import DITHER, write_tiny_model

WHAT_TO_RUN = r"needs CrypTen, which is not installed on this machine: run pip install --no-deps crypten==0\.4\.1"


@pytest.fixture
def without_crypten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every import of it fails, as if it were not there."""
    monkeypatch.setitem(sys.modules, "crypten", None)
    assert not is_installed()


def test_a_federation_without_it_offers_the_masked_engine_and_answers(
    without_crypten: None, tmp_path: Path, chest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_federation(tmp_path) as federation, federation.diagnoser() as (diagnoser, _):
        plan = federation.model.plan
        assert plan.engines.crypten is None
        assert parse_plan(plan.canonical_bytes()) == plan
        assert "this version is offered without it" in caplog.text
        entry = diagnoser.choose_model(None)
        assert entry.engines == (Engine.MASKED,)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
        expected = PlaintextModel(tmp_path / "model").logits_of_file(chest)
        np.testing.assert_allclose(diagnosis.logits or (), expected, atol=DITHER)
        assert [cost.engine for cost in check_model(federation.model).costs] == ["masked"]
        with pytest.raises(ConfigurationError, match=WHAT_TO_RUN):
            diagnoser.warm_up(Engine.CRYPTEN)
        with pytest.raises(CallerError, match="does not run on engine crypten: choose one of masked"):
            diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)


def test_a_model_that_was_imported_with_it_is_served_without_it(
    federation: Federation, chest: Path, without_crypten: None
) -> None:
    plan = federation.model.plan
    assert offered_engines(plan) == (Engine.MASKED, Engine.CRYPTEN)
    assert servable_engines(plan) == (Engine.MASKED,)
    entry = federation.signed(LABORATORY, engines=servable_engines(plan))
    with federation.diagnoser() as (diagnoser, _):
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
    assert len(diagnosis.logits or ()) == 3
    with pytest.raises(Refused, match="CrypTen, which this session needs, is not installed at this party: use --eng"):
        dealer_side(plan, Engine.CRYPTEN, key=Seed.fresh())


def test_a_model_that_cannot_do_without_it_is_neither_imported_nor_served(
    without_crypten: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_model(tmp_path / "model", softmax=True)
    imported = ImportedModels(tmp_path / "data", SEALING)
    with pytest.raises(ConfigurationError, match=f"this model {WHAT_TO_RUN}"):
        imported.add(folder / "model.onnx", folder / "card.json")
    monkeypatch.undo()
    plan = imported.add(folder / "model.onnx", folder / "card.json").plan
    monkeypatch.setitem(sys.modules, "crypten", None)
    with pytest.raises(ConfigurationError, match=f"this model {WHAT_TO_RUN}"):
        servable_engines(plan)
    with pytest.raises(Refused, match="is not installed at this party: tell its operator"):
        dealer_side(plan, Engine.MASKED, key=Seed.fresh())


def test_servers_start_and_say_that_it_is_missing(without_crypten: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    warm_up_installed()
    assert "the engine 'crypten' needs CrypTen" in caplog.text
    assert "sessions that ask for it are refused" in caplog.text


def test_a_plan_without_any_engine_is_refused(federation: Federation) -> None:
    nothing = federation.model.plan.canonical_bytes()
    plan = json.loads(nothing) | {"engines": {"crypten": None, "masked": None}}
    with pytest.raises(ModelFileError, match="no engine can run the network"):
        parse_plan(json.dumps(plan, sort_keys=True, separators=(",", ":")).encode())
