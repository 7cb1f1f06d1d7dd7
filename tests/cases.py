"""Small files that were once read wrongly, with the right pictures beside them. They are not in the repository."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def cases_folder() -> Path:
    """MEDICAL_CASES, else ../shared/cases beside the repository; the test that asks is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "cases"
    folder = Path(os.environ.get("MEDICAL_CASES") or beside)
    if not folder.is_dir():
        pytest.skip("no folder of cases: set MEDICAL_CASES to run this test")
    return folder


def right_picture(case: Path) -> NDArray[np.float32]:
    """What a card without a window of its own should get of a case, in [0, 1]."""
    right: NDArray[np.float32] = np.load(case.with_name(f"{case.name}.expected.npy"), allow_pickle=False)
    return right
