"""What the coordinator's screen shows: each hospital, each round, and the time left."""

import io
from functools import partial
from pathlib import Path

from rich.console import Console

from federated_learning.rounds.display import Display
from tests.federated_learning.rounds.local import LocalTraining


def shown(federation: LocalTraining, *, terminal: bool) -> str:
    """A whole run's output."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=150)
    with Display(console, federation.names) as display:
        coordinator = federation.coordinator()
        coordinator._finished = partial(display.finished, coordinator)
        coordinator._aggregator.show = display.show
        coordinator.run()
    return text.getvalue()


def test_plain_lines_name_rounds_hospitals_and_time_left(tmp_path: Path) -> None:
    text = shown(LocalTraining(tmp_path, hospitals=3), terminal=False)
    assert "round 0: surveying: hospital-a, hospital-b, hospital-c" in text
    assert "round 1: training: hospital-a, hospital-b, hospital-c" in text
    assert "round 2 of 2: loss" in text
    assert "left: 0:00:00" in text
    assert "\x1b" not in text


def test_a_terminal_has_a_line_for_each_hospital(tmp_path: Path) -> None:
    text = shown(LocalTraining(tmp_path, hospitals=3), terminal=True)
    for name in ("hospital-a", "hospital-b", "hospital-c"):
        assert name in text
    assert "unmasking: done" in text
    assert "round 2" in text
