"""The runner: engines take turns, the warm-up is told apart, and everything is taken down whatever happens."""

import io
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console

from benchmarks.measuring import Step, measure_in_turns
from benchmarks.progress import show_steps
from contract.errors import ComputationFailed
from tests.benchmarks.fakes import EXPECTED, fake_case, fake_opener, measurement, refusing_opener


def test_engines_take_turns_after_one_warm_up(tmp_path: Path) -> None:
    diary: list[str] = []
    openers = {name: fake_opener(name, diary, [measurement()] * 3) for name in ("first", "second")}
    runs = measure_in_turns(fake_case(tmp_path), openers, runs=2, timeout_seconds=1, on_step=lambda _: None)
    assert [(run.engine, run.round) for run in runs.runs] == [
        (name, turn) for turn in (0, 1, 2) for name in ("first", "second")
    ]
    assert diary == [
        "first opens",
        "second opens",
        *["first measures", "second measures"] * 3,
        "second closes",
        "first closes",
    ]


def test_a_failure_takes_every_engine_down(tmp_path: Path) -> None:
    diary: list[str] = []
    openers = {
        "good": fake_opener("good", diary, [measurement()] * 9),
        "bad": fake_opener("bad", diary, [measurement()]),
    }
    with pytest.raises(ComputationFailed, match="bad broke"):
        measure_in_turns(fake_case(tmp_path), openers, runs=3, timeout_seconds=1, on_step=lambda _: None)
    assert diary[-2:] == ["bad closes", "good closes"]


def test_an_interrupt_while_setting_up_takes_down_what_stands(tmp_path: Path) -> None:
    diary: list[str] = []

    def interrupted(_case: object, _timeout: float) -> None:
        raise KeyboardInterrupt

    openers = {"good": fake_opener("good", diary, []), "interrupted": interrupted}
    with pytest.raises(KeyboardInterrupt):
        measure_in_turns(fake_case(tmp_path), openers, runs=1, timeout_seconds=1, on_step=lambda _: None)  # type: ignore[arg-type]
    assert diary == ["good opens", "good closes"]


def test_errors_are_distances_from_the_expected_logits(tmp_path: Path) -> None:
    off = (EXPECTED[0] + 0.25, EXPECTED[1] - 0.5, EXPECTED[2])
    openers = {"engine": fake_opener("engine", [], [measurement(), measurement(logits=off)])}
    runs = measure_in_turns(fake_case(tmp_path), openers, runs=1, timeout_seconds=1, on_step=lambda _: None)
    assert [run.max_abs_error for run in runs.runs] == [0.0, 0.5]


def test_an_engine_that_cannot_serve_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    openers = {"small": refusing_opener, "engine": fake_opener("engine", [], [measurement()] * 2)}
    found = measure_in_turns(fake_case(tmp_path), openers, runs=1, timeout_seconds=1, on_step=lambda _: None)
    assert found.not_served == {"small": "takes one image at a time"}
    assert [run.engine for run in found.runs] == ["engine", "engine"]
    assert [run.round for run in found.runs] == [0, 1]


def test_each_round_submits_other_pictures(tmp_path: Path) -> None:
    case = fake_case(tmp_path, rounds=3)
    assert [case.pictures(turn).seeds for turn in range(4)] == [(1,), (2,), (3,), (1,)]


@pytest.mark.parametrize("logits", [EXPECTED[:2], (*EXPECTED[:2], float("nan"))])
def test_logits_that_cannot_be_compared_are_refused(tmp_path: Path, logits: tuple[float, ...]) -> None:
    openers = {"engine": fake_opener("engine", [], [measurement(logits=logits)])}
    with pytest.raises(ComputationFailed, match="logits"):
        measure_in_turns(fake_case(tmp_path), openers, runs=1, timeout_seconds=1, on_step=lambda _: None)


def test_steps_tell_how_far_and_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.measuring.time.monotonic", lambda: now[0])
    steps: list[Step] = []

    def tick(step: Step) -> None:
        steps.append(step)

    class Timed:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def measure(self, pictures: object) -> object:
            now[0] += self.seconds
            return measurement()

    openers = {"slow": lambda *_: Timed(10.0), "fast": lambda *_: Timed(1.0)}
    measure_in_turns(fake_case(tmp_path), openers, runs=2, timeout_seconds=1, on_step=tick)  # type: ignore[arg-type]
    assert [(step.done, step.seconds_left) for step in steps if "setting up" not in step.words] == [
        (0, None),
        (1, None),
        (2, 22.0),
        (3, 12.0),
        (4, 11.0),
        (5, 1.0),
    ]
    assert {step.total for step in steps} == {6}
    assert [step.words for step in steps][:4] == [
        "slow: setting up",
        "fast: setting up",
        "slow: warm-up",
        "fast: warm-up",
    ]


def test_steps_are_lines_where_there_is_no_terminal() -> None:
    output = io.StringIO()
    with show_steps(Console(file=output)) as on_step:
        for words, done in (("masked: setting up", 0), ("masked: run 1 of 2", 1), ("masked: run 1 of 2", 2)):
            on_step(Step(words=words, done=done, total=2, seconds_left=None))
    assert output.getvalue() == "bench: masked: setting up\nbench: masked: run 1 of 2\n"
