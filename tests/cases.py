"""Folders beside the repository that tests read: real images, and cases that were once read wrongly.

Cases are small files with the right pictures beside them.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def shared_folder(name: str, variable: str, what: str) -> Path:
    """What a variable of the environment names, else ../shared/`name`; the test is skipped where there is none."""
    folder = Path(os.environ.get(variable) or Path(__file__).resolve().parents[2] / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"no folder of {what}: set {variable} to run this test")
    return folder


def cases_folder() -> Path:
    """MEDICAL_CASES, else ../shared/cases beside the repository; the test that asks is skipped where there is none."""
    return shared_folder("cases", "MEDICAL_CASES", "cases")


def right_picture(case: Path) -> NDArray[np.float32]:
    """What a card without a window of its own should get of a case, in [0, 1]."""
    right: NDArray[np.float32] = np.load(case.with_name(f"{case.name}.expected.npy"), allow_pickle=False)
    return right
