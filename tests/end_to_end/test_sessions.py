"""Diagnoses over real channels, with every party in this process."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from contract.api import SessionState
from contract.ticket import Engine
from demonstration.plaintext import PlaintextModel
from tests.end_to_end.federation import SILENT, Federation
from tests.end_to_end.models import DITHER, class_answer, radiograph


def test_the_encrypted_answer_is_the_models(federation: Federation, plaintext: PlaintextModel, chest: Path) -> None:
    with federation.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)
        expected = plaintext.logits_of_file(chest)
        np.testing.assert_allclose(diagnosis.logits or (), expected, atol=DITHER)
        assert class_answer(diagnosis).label == plaintext.card.classes[int(np.argmax(expected))]
        session = client.session(client.opened[0].id)
    assert session.state is SessionState.COMPLETED
    assert session.bytes_sent is not None
    assert session.bytes_sent.data_owner == diagnosis.bytes.data_owner_sent


def test_three_sessions_at_once_are_each_right(
    federation: Federation, plaintext: PlaintextModel, tmp_path: Path
) -> None:
    paths = [radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(max_workers=3) as pool:
        diagnoses = list(pool.map(federation.diagnose, paths))
    for path, diagnosis in zip(paths, diagnoses, strict=True):
        np.testing.assert_allclose(diagnosis.logits or (), plaintext.logits_of_file(path), atol=DITHER)
    assert len({diagnosis.logits for diagnosis in diagnoses}) == 3
