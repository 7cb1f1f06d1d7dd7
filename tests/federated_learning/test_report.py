"""The comparison of runs: result files keep what was predicted, and the page is what the files make of it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import CallerError
from contract.model_card import FederatedTraining
from federated_learning.data_source.examples import Example
from federated_learning.metrics import accuracy, compute_once
from federated_learning.report import PAGE, PLOTS, RESULTS, drawing, page
from federated_learning.report.measured import trace_curve
from federated_learning.report.results import (
    FORMAT,
    RunResult,
    check_comparable,
    make_split,
    read_results,
    write_result,
)
from federated_learning.run_records import RoundRecord, RunKind
from federated_learning.temperature import softmax

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("normal", "bacteria", "virus")
SECURE: dict[str, str | int | float] = {"ring bits": 16, "masks": "AES-256-CTR"}


def examples(split: str, count: int) -> list[Example]:
    return [
        Example(path=Path(f"/data/{split}-{index}.png"), label=index % 3, patient=f"{split}-{index // 2}")
        for index in range(count)
    ]


def result(name: str, kind: RunKind, *, skill: float, **changes: Any) -> RunResult:
    """A run whose logits are right the more often, the more skill it has."""
    generator, splits = np.random.default_rng(len(name)), []
    for split, count in (("dev_val", 60), ("dev_test_internal", 45)):
        listed = examples(split, count)
        logits = generator.normal(size=(count, 3))
        logits[np.arange(count), [one.label for one in listed]] += skill
        splits.append(make_split(split, listed, logits.astype(np.float32)))
    secure = kind is RunKind.FEDERATED_SECURE
    federation = FederatedTraining(
        hospitals=("a", "b", "c"),
        rounds=3,
        chosen_round=2,
        method="FedAvg weighted by examples",
        secure_aggregation=SECURE if secure else None,
    )
    values: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "kind": kind,
        "taken": "2026-01-02T03:04:05+00:00",
        "data_set": "drawn",
        "classes": CLASSES,
        "size": 32,
        "settings": {"architecture": "resnet10-narrow", "stages": [{"size": 32, "epochs": 3, "batch": 4}]},
        "training_roles": ("train",),
        "validation_role": "dev_val",
        "chosen_round": 2,
        "temperature": 0.8,
        "model_sha256": "0" * 64,
        "federation": federation if kind in {RunKind.FEDERATED, RunKind.FEDERATED_SECURE} else None,
        "history": [
            RoundRecord(
                round=number,
                validation_accuracy=number / 10,
                seconds=10.0 * number,
                aggregation_seconds=0.25 if secure else None,
                bytes_sent_per_hospital=500_000 if secure else 1_000_000,
                bytes_in_the_clear=1_000_000,
            )
            for number in (1, 2, 3)
        ],
        "software": {"torch": "2"},
        "splits": tuple(splits),
    }
    return RunResult.model_validate(values | changes)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for name, kind, skill in (
        ("federated-secure", RunKind.FEDERATED_SECURE, 2.0),
        ("hospital-a", RunKind.HOSPITAL, 0.2),
        ("centralised", RunKind.CENTRALISED, 2.5),
        ("federated", RunKind.FEDERATED, 2.1),
    ):
        write_result(result(name, kind, skill=skill), folder)
    return folder


def test_a_result_is_read_as_it_was_written_and_names_nobody(results: Path) -> None:
    found = read_results(results)
    assert [one.name for one in found] == ["centralised", "hospital-a", "federated", "federated-secure"]
    assert found[3] == result("federated-secure", RunKind.FEDERATED_SECURE, skill=2.0)
    text = (results / "centralised.json").read_text()
    assert ".png" not in text
    assert "dev_val-" not in text
    assert max(len(line) for line in text.splitlines()) < 1000
    assert text.count("\n") < 300


def test_patients_keep_their_order_and_their_images(results: Path) -> None:
    split = read_results(results)[0].split("dev_val")
    assert split is not None
    names = [example.patient for example in examples("dev_val", 60)]
    order = sorted(set(names))
    assert [order[number] for number in split.patients] == names
    assert sorted(set(split.patient_names)) == [f"{number:09d}" for number in range(30)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 0}, "another version"),
        ({"name": "other"}, "another run's name"),
        ({"classes": ["normal", "bacteria"]}, "evaluate it again"),
        ({"surprise": 1}, "surprise"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_strange_files_are_refused(results: Path, change: dict[str, Any], said: str) -> None:
    path = results / "centralised.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CallerError, match=said) as caught:
        read_results(results)
    assert "centralised.json" in str(caught.value)


def test_runs_on_other_examples_are_not_compared(results: Path) -> None:
    found = read_results(results)
    check_comparable(found)
    other = found[1].splits[0].model_copy(update={"examples_sha256": "1" * 64})
    with pytest.raises(CallerError, match="different examples of dev_val"):
        check_comparable([found[0], found[1].model_copy(update={"splits": (other,)})])
    with pytest.raises(CallerError, match="other classes"):
        check_comparable([found[0], found[1].model_copy(update={"classes": ("a", "b", "c")})])


def test_every_place_of_the_template_is_filled() -> None:
    assert set(re.findall(r"\{\{(\w+)\}\}", page.TEMPLATE.read_text())) == set(page.SECTIONS)


def test_the_page_says_what_the_files_say(results: Path, tmp_path: Path) -> None:
    where = tmp_path / "docs" / "federated-results.md"
    where.parent.mkdir()
    page.write(results, where)
    text = where.read_text()
    for one in read_results(results):
        assert f"[{one.name}](../results/{one.name}.json)" in text
        for split in one.splits:
            value = compute_once(accuracy, softmax(np.asarray(split.logits)), split.truth)
            assert re.search(rf"\| {one.name} \| {value:.3f} \(0\.\d+ to [01]\.\d+\) \|", text)
    assert "| hospital-a - centralised | **-0." in text  # far worse, and said to be
    assert "| federated-secure - federated |" in text
    assert "FedAvg weighted by examples; ring bits 16, masks AES-256-CTR" in text
    assert "| federated-secure | 3 | 20.0 | 0.25 | 500 | 0.50 | 0 |" in text
    assert "| federated | 3 | 20.0 |  | 1,000 | 1.00 | 0 |" in text
    assert "| 3 at 32 px | 32 px | 2 of 3 |" in text
    assert "{{" not in text
    assert "nan" not in text
    plots = {path.name for path in (where.parent / PLOTS).iterdir()}
    assert plots == set(re.findall(r"\(federated-plots/([\w-]+\.svg)\)", text))
    assert len(plots) == 4
    (where.parent / PLOTS / "old.svg").touch()
    page.write(results, where)
    assert not (where.parent / PLOTS / "old.svg").exists()
    assert where.read_text() == text


def test_runs_without_history_or_federation_make_a_page(tmp_path: Path) -> None:
    write_result(result("alone", RunKind.CENTRALISED, skill=1, history=()), tmp_path)
    made = page.render(tmp_path, tmp_path / "page.md")
    assert "learning.svg" not in made.plots
    assert "(alone.json)" in made.text or "(./alone.json)" in made.text


def test_a_published_model_stands_beside_the_runs(results: Path, tmp_path: Path) -> None:
    """Compared where it is known to have been trained as long."""
    settings = {"published": "chest 2.0.0"}
    write_result(result("shipped", RunKind.FEDERATED_SECURE, skill=2.2, settings=settings, history=()), results)
    text = page.render(results, tmp_path / "page.md").text
    assert "| as the card of chest 2.0.0 says |" in text
    assert "shipped - centralised" not in text
    for epochs, compared in ((3, True), (4, False)):
        known = settings | {"stages": [{"size": 32, "epochs": epochs, "batch": 4}]}
        write_result(result("shipped", RunKind.FEDERATED_SECURE, skill=2.2, settings=known, history=()), results)
        text = page.render(results, tmp_path / "page.md").text
        assert f"| {epochs} at 32 px |" in text
        assert ("| shipped - centralised |" in text) is compared


def test_no_results_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="federated-learning evaluate"):
        page.render(tmp_path, tmp_path / "page.md")


def test_the_committed_page_is_what_the_committed_results_make() -> None:
    if not (ROOT / RESULTS).exists():
        assert not (ROOT / PAGE).exists()
        return
    made = page.render(ROOT / RESULTS, ROOT / PAGE)
    assert (ROOT / PAGE).read_text() == made.text
    assert {path.name for path in (ROOT / PAGE).parent.joinpath(PLOTS).iterdir()} == set(made.plots)


def test_curve_by_hand() -> None:
    scores, positive = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])
    assert trace_curve(scores, positive) == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]


def test_plots_are_the_same_bytes_each_time_and_legible_on_dark() -> None:
    def drawn() -> list[bytes]:
        return [
            drawing.lines({"a": [(1, 0.2), (2, 0.3)], "b": [(1, 0.1)]}, across="x", up="y"),
            drawing.squares({"one": {"a": [(0, 0), (1, 1)]}, "two": {}}, across="x", up="y", markers=True),
        ]

    first = drawn()
    assert first == drawn()
    for one in first:
        assert one.startswith(b"<?xml")
        assert b"#000000" not in one
