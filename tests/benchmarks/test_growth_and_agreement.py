"""`growth` and `agreement`: what they refuse, and the arithmetic of growth."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth as growth_module
from benchmarks.__main__ import app
from benchmarks.agreement import margin
from benchmarks.growth import measure_growth
from benchmarks.measuring import Step
from plumbing.command_line import run
from tests.benchmarks.fakes import fake_case, fake_opener, measurement
from tests.data_owner.answering import card, multi_label_card
from tests.end_to_end.models import write_tiny_model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["growth", "--sides", "64"], "two or more numbers"),
        (["growth", "--sides", "64,big"], "give --sides numbers from 32 to 1024"),
        (["growth", "--model", "resnet9000"], "unknown model 'resnet9000'"),
        (["growth", "--save", "nowhere/growth.json"], "is not a file in a folder that exists"),
        (["agreement", "nothing.dcm", "--model", "resnet9000"], "unknown model 'resnet9000'"),
        (["agreement", "nothing.dcm", "--save", "nowhere/agreement.json"], "is not a file in a folder that exists"),
        (["agreement", "one", "two", "--manifest", "list.csv"], "name one folder of images and at least one --role"),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(app, name="bench", arguments=arguments)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert output.err.count("\n") == 1


def test_growth_fits_a_line_and_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter(((9.0, 1.0), (9.0, 2.0)))  # the first of each warms up
    monkeypatch.setattr(
        growth_module, "product", lambda _engine: fake_opener("masked", [], [measurement(one) for one in next(sizes)])
    )
    monkeypatch.setattr(growth_module, "prepare", lambda _model, place, **_given: fake_case(place, rounds=2))
    steps: list[Step] = []
    base = write_tiny_model(tmp_path / "model")
    result = measure_growth(base, tmp_path, sides=(32, 64), runs=1, timeout_seconds=60, on_step=steps.append)
    assert [(one.side, one.online_seconds) for one in result.sizes] == [(32, 1.0), (64, 2.0)]
    assert result.online_microseconds_per_pixel == pytest.approx(1e6 / (64**2 - 32**2))
    assert result.online_seconds_at_no_pixels == pytest.approx(2 / 3)
    assert steps[-1].words == "64 x 64 pixels, masked: run 1 of 1"
    assert (steps[-1].done, steps[-1].total) == (3, 4)


def test_a_margin_tells_how_clear_the_answers_are_that_differ() -> None:
    assert margin(card(), np.array([2.0, 1.75]), np.array([True, True])) == pytest.approx(0.25)
    findings = multi_label_card(thresholds={"mass": 0.9})  # a logit of 2.197
    logits, differ = np.array([0.05, 2.2, 9.0]), np.array([True, True, False])
    assert margin(findings, logits, differ) == pytest.approx(0.05)
