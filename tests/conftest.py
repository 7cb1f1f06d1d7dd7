"""Fixtures of every room."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # plumbing/onnx_runtime.py says why; tests import onnxruntime themselves
os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Of this process and of those that tests start: each file has a worker, and threads that wait for each other spin."""

# The same examples in each run: a run is as good as the one before it, whatever else the machine does. What looks for
# new ones is tests/fuzzing. No example's time counts, and a fixture that all examples of a test share is meant.
hypothesis_settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("tests")

if TYPE_CHECKING:
    from tests.end_to_end.federation import Federation


@pytest.fixture(scope="session")
def medical_data() -> Path:
    """The folder of real images: MEDICAL_DATA, else ../shared/data beside the repository."""
    from tests.cases import shared_folder

    return shared_folder("data", "MEDICAL_DATA", "real images")


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Federation"]:
    """All parties but the data owner, serving a tiny model from this process; its card vouches for one picture."""
    from tests.end_to_end.federation import running_federation
    from tests.end_to_end.models import radiograph

    pictures = tmp_path_factory.mktemp("pictures")
    radiograph(pictures / "only.dcm", seed=100)
    with running_federation(tmp_path_factory.mktemp("federation"), references=pictures) as running:
        yield running


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """A radiograph that the tiny model reads without a warning."""
    from tests.end_to_end.models import radiograph

    return radiograph(tmp_path / "chest.dcm")
