"""docs/images.md says what is read."""

import pytest

from tests.imaging.make_table import TABLES, written


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_the_document_is_what_happens(name: str) -> None:
    assert written(name) == TABLES[name](), "run python -m tests.imaging.make_table"


def test_most_kinds_of_dicom_file_are_read() -> None:
    assert written("table").count("| yes ") > 50
