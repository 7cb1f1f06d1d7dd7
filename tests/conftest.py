"""Fixtures of every room."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def medical_data() -> Path:
    """The folder of real images: MEDICAL_DATA, else ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MEDICAL_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no folder of real images: set MEDICAL_DATA to run this test")
    return folder
