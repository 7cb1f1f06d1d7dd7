"""Files to submit, and the model in clear."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demonstration.plaintext import PlaintextModel
from tests.end_to_end.federation import Federation
from tests.end_to_end.stocking import Parties, running


@pytest.fixture(scope="session")
def plaintext(federation: Federation) -> PlaintextModel:
    return PlaintextModel(federation.folder / "model")


@pytest.fixture
def parties(federation: Federation, tmp_path: Path) -> Iterator[Parties]:
    with running(federation, tmp_path / "parties") as both:
        yield both
