"""docs/images.md says what is read."""

import pytest

from tests.imaging.make_table import BEGIN, DOCUMENT, END, table


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_the_table_in_the_document_is_what_happens() -> None:
    text = DOCUMENT.read_text()
    written = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert written == table(), "run python -m tests.imaging.make_table"
    assert written.count("| yes ") > 50
