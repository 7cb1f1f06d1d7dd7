"""AriaNN's table: its figures stand as published, the networks are its own, and ours stand beside them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import app
from benchmarks.ariann import AriannTable, LinkCost, PublishedRow, Row, read_published, write_model
from benchmarks.ariann_networks import NETWORKS, draw_network
from benchmarks.document.blocks import print_shown
from benchmarks.document.other_systems import show_ariann
from benchmarks.machine import read_machine
from benchmarks.results import Range
from benchmarks.wiring import find_wiring
from contract.model_card import read_card
from demonstration.plaintext import PlaintextModel
from model_owner.calibration_images import load_calibration_images
from model_owner.onnx_import.compiling import compile_model
from plumbing.command_line import run
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights

TRANSCRIBED = {
    "lenet-28": (128, 0.041, 0.055, 0.035, 0.143, 0.43, None),
    "alexnet-32": (128, 0.091, 0.15, 0.078, 0.34, 0.95, None),
    "alexnet-64": (128, 0.27, 0.33, 0.20, 0.48, 1.75, None),
    "vgg16-32": (64, 0.94, 1.75, 1.55, 1.99, 12.59, None),
    "vgg16-64": (16, 3.42, 7.51, 6.83, 8.00, 53.11, None),
    "resnet18-224": (8, 10.02, 19.88, 13.90, 24.07, 148, 3254),
}
"""Batch, preprocessing, LAN CPU, LAN GPU, WAN CPU, online MB, offline MB: typed a second time, from the table."""

PARAMETERS = {
    "lenet-28": 431_080,
    "alexnet-32": 3_882_058,
    "alexnet-64": 2_469_696 + 256 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 200 + 200,
    "resnet18-224": 11_689_512 - 512 * 1000 - 1000 + 512 * 2 + 2,
    "vgg16-32": 14_714_688 + 512 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 10 + 10,
    "vgg16-64": 14_714_688 + 2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 200 + 200,
}
"""What these networks are known to hold: torchvision's counts, with other classifiers. AlexNet at 32 px by hand."""


def test_published_figures_stand_as_published() -> None:
    found = {
        row.name: (
            *(row.batch, row.preprocessing_seconds, row.lan_cpu_seconds, row.lan_gpu_seconds, row.wan_cpu_seconds),
            *(row.online_megabytes, row.offline_megabytes),
        )
        for row in read_published().rows
    }
    assert found == TRANSCRIBED
    assert tuple(found) == tuple(NETWORKS)


@pytest.mark.parametrize(
    "name", [name if PARAMETERS[name] < 10e6 else pytest.param(name, marks=pytest.mark.slow) for name in PARAMETERS]
)
def test_networks_are_of_the_right_size(tmp_path: Path, name: str) -> None:
    row = published_row(name)
    assert sum(one.numel() for one in draw_network(name, row.classes).parameters()) == PARAMETERS[name]
    folder = write_model(row, tmp_path / name)
    card = read_card(folder / "card.json")
    shape = (card.input.channels, card.input.height, card.input.width)
    logits = PlaintextModel(folder).logits(np.zeros(shape, np.float32))
    assert logits.shape == (len(card.classes),)


def published_row(name: str) -> PublishedRow:
    (row,) = [row for row in read_published().rows if row.name == name]
    return row


def test_colour_networks_compile_and_answer_as_in_clear(tmp_path: Path) -> None:
    folder = write_model(
        published_row("alexnet-32"), tmp_path / "model"
    )  # the one with batch norms behind ReLUs, which fold into no layer
    card = read_card(folder / "card.json")
    compiled = compile_model(folder / "model.onnx", card)
    images = load_calibration_images(card.input, ())
    lowering = lower_masked(compiled.network, compiled.weights, images)
    weights = round_weights(lowering, compiled.weights)
    expected = PlaintextModel(folder).logits(images[0])
    answered = reference.evaluate(lowering, weights, reference.quantise_image(lowering, images[0]), audit=True)
    assert np.abs(reference.read_logits(lowering, answered) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "lenet-28,lenet-5"], "unknown row 'lenet-5': give --rows some of lenet-28"),
        (["--rows", "lenet-28,lenet-28"], "--rows names one twice"),
        (["--rows", ","], "no row named"),
        (["--networks", "moon"], "unknown network 'moon'"),
        (["--save", "FOLDER"], "is not a file in a folder that exists"),
        (["--save", "FOLDER/nowhere/ariann.json"], "is not a file in a folder that exists"),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    given = [part.replace("FOLDER", str(tmp_path)) for part in arguments]
    with pytest.raises(SystemExit) as caught:
        run(app, name="bench", arguments=["ariann", *given])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert output.err.count("\n") == 1


def test_the_table_shows_theirs_and_ours(capsys: pytest.CaptureFixture[str]) -> None:
    wide = Range(smallest=0.0123456, largest=0.123456)
    cost = LinkCost(
        link="ariann-wan",
        online_seconds=0.0345678,
        online_seconds_range=wide,
        offline_seconds=0.0456789,
        offline_seconds_range=wide,
        online_bytes=53_110_000,
        offline_bytes=1_234_560_000,
        weights_bytes=1,
        one_way_trips=123,
        max_abs_error=0.0123,
        largest_logit=12.3,
        peak_rss_bytes={},
    )
    published = read_published()
    table = AriannTable(
        format=1,
        taken="2026-01-01T00:00:00+00:00",
        published=published,
        rows=tuple(Row(published=row, ours=(cost,)) for row in published.rows),
        links=(find_wiring("ariann-wan"),),
        runs=3,
        threads=1,
        machine=read_machine(),
        versions={},
    )
    print_shown(show_ariann(table))
    shown = capsys.readouterr().out
    for words in (
        "AriaNN, WAN, CPU",
        "0.143",
        "18.3",
        "ours, ariann-wan",
        "ResNet-18, 224 px",
        "3,254",
        "m5d.4xlarge",
    ):
        assert words in shown
    assert "70 ms one way" in " ".join(shown.split())
    assert shown.count("0.0346") == len(published.rows)
