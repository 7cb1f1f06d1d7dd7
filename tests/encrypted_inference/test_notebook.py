"""The examples of the researchers' library, in its docstring and on its page, run as they stand."""

import doctest
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import encrypted_inference
from tests.encrypted_inference.settings import write_settings
from tests.end_to_end.federation import Federation
from tests.end_to_end.models import write_tiny_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebook.md"


def blocks_of(page: str) -> Iterator[tuple[str, str]]:
    """Each block of Python, with the block of text that follows it: what it prints."""
    found = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", page, flags=re.DOTALL)
    assert len(found) == page.count("```python")
    yield from found


def test_the_examples_in_the_docstring_are_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(encrypted_inference)
    assert results.attempted >= 9
    assert results.failed == 0


def test_the_page_prints_what_it_says(
    federation: Federation, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(federation, tmp_path / "data-owner.toml")
    monkeypatch.chdir(tmp_path)
    assert chest == tmp_path / "chest.dcm"
    names: dict[str, object] = {}
    for source, expected in blocks_of(PAGE.read_text()):
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(source, PAGE.name, "exec"), names)
        assert expected
        assert doctest.OutputChecker().check_output(expected, printed.getvalue(), doctest.ELLIPSIS), printed.getvalue()


def test_a_page_that_prints_something_else_is_found() -> None:
    ((source, expected),) = blocks_of("```python\nprint(2)\n```\n\n```text\n3\n```\n")
    assert (source, expected) == ("print(2)\n", "3\n")
    assert not doctest.OutputChecker().check_output(expected, "2\n", doctest.ELLIPSIS)
