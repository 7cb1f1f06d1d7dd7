"""A page that is open all day."""

from pathlib import Path

import pytest

from contract.model_card import OutputPolicy
from tests.browser.figures import growth
from tests.browser.real_page import real_federation
from tests.end_to_end.models import write_tiny_model


@pytest.mark.slow
def test_a_hundred_more_diagnoses_leave_nothing_in_memory(tmp_path: Path, chest: Path) -> None:
    model = write_tiny_model(tmp_path / "model", output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP)
    with real_federation(model) as deployment:
        settled, ended = growth(deployment, chest.read_bytes())
    assert ended - settled < 8
