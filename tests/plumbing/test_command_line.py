"""What all commands show of their work."""

import sys

import pytest
from rich.console import Console

from plumbing.command_line import show_status


def test_a_status_is_for_terminals_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with show_status("starting") as on_step:
        on_step("[bold]reading")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("plumbing.command_line.console", terminal)
    with show_status("starting") as on_step:
        on_step("[bold]reading")
    out, err = capsys.readouterr()
    assert out == ""
    assert "[bold]reading" in err


def terminal() -> Console:
    return Console(file=sys.stderr, force_terminal=True)
