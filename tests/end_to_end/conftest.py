"""Files to submit, and the model in clear."""

import pytest

from demonstration.plaintext import PlaintextModel
from tests.end_to_end.federation import Federation


@pytest.fixture(scope="session")
def plaintext(federation: Federation) -> PlaintextModel:
    return PlaintextModel(federation.folder / "model")
