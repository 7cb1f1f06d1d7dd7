"""`networks` and `predict`: the cost model by hand, turns over links with engines that compute nothing, mistakes."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import emulated_links, emulation
from benchmarks.__main__ import app
from benchmarks.configuration import RESULTS, Configuration, find_model
from benchmarks.cost_model import estimate_cost, predict, predict_from_saved
from benchmarks.document.sections import describe_errors
from benchmarks.emulated_links import (
    LinkResults,
    PredictedLinkResults,
    add_predictions,
    measure_over_links,
    save_link_results,
)
from benchmarks.engines.product import measure_waited_share
from benchmarks.latency import read_newest, save, summarise
from benchmarks.measuring import LinkTraffic, Measured, Measurement, Opener, Run, Step
from benchmarks.results import read_part
from benchmarks.wiring import DATA_CENTRES, HOME, Wiring, find_wiring, parse_wirings
from contract.errors import CallerError
from contract.ticket import Engine
from model_owner.cost_prediction import OFFLINE_TRIPS, predict_over_links
from model_owner.imported_models import ImportedModels
from model_owner.link_profiles import LOOPBACK
from plumbing.command_line import run
from secure_computation.at_rest import StorageKey
from secure_computation.engines.masked.session.step_shapes import PART_ELEMENTS
from secure_computation.network import Clip, FullyConnected, GlobalAveragePool, MaxPool, Network, Relu, Reshape
from tests.benchmarks.fakes import fake_case, fake_opener, measurement
from tests.benchmarks.test_latency_results import MACHINE, NOW, configuration

LINK = Wiring(name="x", one_way_milliseconds=10.0, megabits_per_second=8.0)  # 1 MB/s


STOCK = {"third_party_bytes": 1_000_000, "rounds": 40, "third_party_requests": 30}


def counted(**details: float) -> Measurement:
    return replace(
        measurement(2.0), online_bytes=3_000_000, offline_bytes=5_000_000, one_way_trips=101, details=details
    )


@pytest.mark.parametrize(
    ("engine", "details", "online", "offline"),
    [
        # 100 trips (of ours, the last is not waited for) are 1 s; computing is 2 s online, 1 s offline.
        # The parties take turns: 3 MB. The dealer's link: 4 MB.
        ("masked", {"crypto_provider_sent_bytes": 4_000_000}, 6.0, 5.0 + 0.01 * OFFLINE_TRIPS[Engine.MASKED]),
        # Both send at once: 1.5 MB. 4 MB dealt, then 1 MB of masked weights, half of it each way.
        ("crypten", {"crypto_provider_sent_bytes": 4_000_000}, 4.5, 5.5 + 0.01 * OFFLINE_TRIPS[Engine.CRYPTEN]),
        # 1 MB from the third party, the rest both ways at once. Of 40 openings and 30 questions come 400 trips.
        ("stock-crypten", STOCK, 8.0, 6.0),
        ("somebody-else", {}, 6.01, 6.0),
    ],
)
def test_cost_model_by_hand(engine: str, details: dict[str, int], online: float, offline: float) -> None:
    cost = estimate_cost(engine, [counted(**details)])
    found = predict(cost, LINK)
    assert found.online_seconds == pytest.approx(online)
    assert found.offline_seconds == pytest.approx(offline)
    at_home = predict(cost, HOME)
    assert (at_home.online_seconds, at_home.offline_seconds) == (2.0, 1.0)


def test_answers_to_parts_of_a_large_layer_cross_while_the_model_owner_opens_the_next() -> None:
    # Of 3 MB the data owner answers 1 MB. In 4 parts, all but the last quarter of the answer meets the openings.
    links = (
        LinkTraffic(sender="data_owner", receiver="model_owner", offline_bytes=0, online_bytes=1_000_000),
        LinkTraffic(sender="model_owner", receiver="data_owner", offline_bytes=0, online_bytes=2_000_000),
    )
    share = measure_waited_share(network_of_relus(4 * PART_ELEMENTS))
    assert share == 0.25
    for waited, in_line in ((share, 2_250_000), (1.0, 3_000_000)):
        run = replace(counted(crypto_provider_sent_bytes=0, waited_share=waited), links=links)
        assert estimate_cost("masked", [run]).online.bytes_in_line == in_line


def test_the_parts_are_those_of_every_comparison() -> None:
    assert measure_waited_share(network_of_relus(64)) == 1.0
    two = Network(
        input_shape=(1, 512, 512),
        operations=(
            # Columns: 2 comparisons at 256 x 512 places, then rows: 2 at 256 x 256.
            MaxPool(
                name="pool", inputs=("input",), shape=(1, 256, 256), kernel=(3, 3), stride=(2, 2), padding=(0, 0, 1, 1)
            ),
            Clip(name="clip", inputs=("pool",), shape=(1, 256, 256), high=6.0),
            GlobalAveragePool(name="mean", inputs=("clip",), shape=(1, 1, 1)),
            Reshape(name="flat", inputs=("mean",), shape=(1,)),
            FullyConnected(name="head", inputs=("flat",), shape=(3,), in_features=1, out_features=3, bias=True),
        ),
        output="head",
        classes=3,
    )
    columns, rows = 256 * 513, 256 * 256
    assert measure_waited_share(two) == pytest.approx(6 * PART_ELEMENTS / (2 * columns + 4 * rows))


def network_of_relus(elements: int) -> Network:
    return Network(
        input_shape=(1, elements // 8, 8),
        operations=(
            Relu(name="relu", inputs=("input",), shape=(1, elements // 8, 8)),
            GlobalAveragePool(name="mean", inputs=("relu",), shape=(1, 1, 1)),
            Reshape(name="flat", inputs=("mean",), shape=(1,)),
            FullyConnected(name="head", inputs=("flat",), shape=(3,), in_features=1, out_features=3, bias=True),
        ),
        output="head",
        classes=3,
    )


def saved_result(folder: Path, *, version: int = 2) -> Path:
    measured = [counted(**STOCK)] * 3
    measured[0] = replace(measured[0], online_seconds=1000.0)  # a warm-up, which does not count
    runs = [
        Run(engine="stock-crypten", round=turn, measurement=one, max_abs_error=0.0) for turn, one in enumerate(measured)
    ]
    asked = replace(configuration(folder), engines=("stock-crypten",))
    summary = summarise(Measured(runs=tuple(runs), not_served={}), fake_case(folder), asked, MACHINE, {}, now=NOW)
    return save(folder, summary.model_copy(update={"format": version}))


def test_predictions_come_from_the_newest_saved_result_without_its_warm_up(tmp_path: Path) -> None:
    path = saved_result(tmp_path)
    found = predict_from_saved("tiny", [HOME, LINK], tmp_path)
    assert found.source == path.name
    assert [(one.link.name, one.online_seconds) for one in found.predictions] == [("loopback", 2.0), ("x", 8.0)]


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    saved_result(tmp_path, version=99)
    with pytest.raises(CallerError, match="version 99"):
        predict_from_saved("tiny", [LINK], tmp_path)


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    saved_result(tmp_path).write_text("{}")
    with pytest.raises(CallerError, match="measure again"):
        predict_from_saved("tiny", [LINK], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["networks", "--networks", "moon"], "unknown network 'moon'"),
        (["networks", "--networks", "lan,lan"], "twice"),
        (["networks", "--networks", "lan+moon"], "after + give one of 1gbit, 10gbit"),
        (["networks", "--networks", ","], "no network named"),
        (["networks", "--networks", "lan", "--engines", "quantum"], "unknown engine 'quantum'"),
        (["networks", "--model", "resnet9000"], "unknown model"),
        (["predict", "--network", "latency_ms=99999,mbit=1"], "from 0 to 2000"),
        (["predict", "--network", "lan", "--model", "unheard-of"], "no result of unheard-of"),
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


def test_predict_prints_every_engine_over_the_network_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_result(tmp_path)
    arguments = ["predict", "--network", "latency_ms=10,mbit=8", "--model", "tiny", "--results", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        run(app, name="bench", arguments=[*arguments, "--json"])
    assert caught.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert (found["engine"], found["online_seconds"]) == ("stock-crypten", 8.0)
    with pytest.raises(SystemExit):
        run(app, name="bench", arguments=arguments)
    assert "latency-tiny-8px-20300102T030405Z.json" in capsys.readouterr().out


def test_predictions_agree_with_the_committed_measurements() -> None:
    """`predict` starts from loopback. Where the link decides, it is near what was measured, or above.

    Only what sends as many bytes as on loopback is compared: the parts are not measured on one day, and plans change.
    """
    _, saved = read_newest(RESULTS, "resnet18")
    sent = {figures.engine: figures.online_bytes for figures in saved.results}
    compared = 0
    for part in ("networks", "hospital"):
        kept = read_part(part, RESULTS, LinkResults)
        assert kept is not None
        slow = [facts.link for facts in kept.result.links if facts.link.one_way_milliseconds >= 10]
        rows = {(row.network, row.engine): row for row in kept.result.rows}
        for one in predict_from_saved("resnet18", slow).predictions:
            row = rows.get((one.link.name, one.engine))
            if row is not None and row.online_bytes == pytest.approx(sent[one.engine], rel=0.01):
                compared += 1
                # The masked engine computes while it sends, and sends both ways at once, which a prediction leaves out:
                # it may be too long by what that saves.
                assert 0.75 * row.online_seconds <= one.online_seconds <= 1.4 * row.online_seconds
                # From stock nothing is sent, and what is left is the machine's: some hundredths of a second.
                assert 0.75 * row.offline_seconds - 0.1 <= one.offline_seconds <= 1.75 * row.offline_seconds + 0.1
    assert compared >= 6


@pytest.mark.slow
def test_model_owner_check_predicts_no_less_than_was_measured(tmp_path: Path) -> None:
    """It counts all bytes as if the parties took turns, and knows the machine of the reference measurement only."""
    kept = read_part("networks", RESULTS, LinkResults)
    assert kept is not None
    rows = {(row.network, row.engine): row for row in kept.result.rows}
    folder = find_model("resnet18")
    plan = ImportedModels(tmp_path, StorageKey(bytes(32))).add(folder / "model.onnx", folder / "card.json", ()).plan
    compared = 0
    for one in predict_over_links(plan):
        row = rows.get((one.link.name, one.engine.value))
        if row is not None and one.link != LOOPBACK:
            compared += 1
            assert 0.95 * row.online_seconds < one.online_seconds < 1.7 * row.online_seconds
            assert 0.95 * row.offline_seconds < one.offline_seconds < 1.7 * row.offline_seconds
    assert compared >= 4


def test_a_spelt_out_network_may_stand_beside_profiles() -> None:
    assert parse_wirings("lan; latency_ms=15,mbit=50") == (find_wiring("lan"), find_wiring("latency_ms=15,mbit=50"))
    assert parse_wirings("lan,hospital+1gbit") == (find_wiring("lan"), find_wiring("hospital+1gbit"))


def test_the_links_of_a_hospital_are_one_uplink_and_those_between_data_centres_are_not_slowed() -> None:
    alone = find_wiring("hospital+10gbit")
    assert alone.words() == (
        "hospital+10gbit (100 Mbit/s, 10 ms one way) at the hospital, 10gbit (10000 Mbit/s, 1 ms one way) between the "
        "others"
    )
    for server in ("model-owner", "crypto-provider", "inference-service"):
        assert alone.choose_line(f"data-owner/{server}") == ("data-owner", alone)
    dealing = "model-owner/crypto-provider"
    assert alone.choose_line(dealing) == (dealing, DATA_CENTRES["10gbit"])
    all_slow = find_wiring("hospital")
    for link in ("data-owner/model-owner", dealing):
        assert all_slow.choose_line(link) == (link, all_slow)


def test_what_the_dealer_sends_passes_a_fast_link_while_the_hospital_sends_over_its_own() -> None:
    # 8 MB dealt: 8 s over a link of 1 MB/s, 0.064 s over 1 Gbit/s. The hospital has 2 MB to send meanwhile: 2 s.
    sent = LinkTraffic(sender="data_owner", receiver="model_owner", offline_bytes=2_000_000, online_bytes=0)
    run = replace(counted(crypto_provider_sent_bytes=8_000_000), links=(sent,))
    cost = estimate_cost("masked", [run])
    trips = 0.01 * OFFLINE_TRIPS[Engine.MASKED]
    alone = Wiring(**dict(LINK) | {"name": "x+1gbit", "others": DATA_CENTRES["1gbit"]})
    assert predict(cost, LINK).offline_seconds == pytest.approx(trips + 8.0 + 1.0)
    assert predict(cost, alone).offline_seconds == pytest.approx(trips + 2.0 + 1.0)
    assert predict(cost, alone).online_seconds == predict(cost, LINK).online_seconds
    without = estimate_cost("masked", [replace(run, links=())])
    assert predict(without, alone).offline_seconds == pytest.approx(trips + 0.064 + 1.0)


def measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, slow_bytes: int
) -> tuple[LinkResults, list[str], list[Step]]:
    """Two engines over loopback and one link, two runs each; `crypten` has so many bytes to send."""
    monkeypatch.setattr(emulation, "TRANSFER_SECONDS", 0.05)
    diary: list[str] = []
    steps: list[Step] = []
    quick = replace(measurement(), details={"crypto_provider_sent_bytes": 0})
    slow = replace(quick, online_bytes=slow_bytes)

    def openers(link: Wiring) -> Mapping[str, Opener]:
        return {
            "masked": fake_opener(f"{link.name} masked", diary, [quick] * 3),
            "crypten": fake_opener(f"{link.name} crypten", diary, [slow] * 3),
            "plaintext": fake_opener(f"{link.name} plaintext", diary, [measurement()] * 3),
        }

    monkeypatch.setattr(emulated_links, "openers", openers)
    asked = Configuration(
        model="tiny",
        model_folder=folder,
        engines=("masked", "crypten", "plaintext"),
        runs=2,
        seed=1,
        timeout_seconds=10,
    )
    monkeypatch.setattr(emulated_links, "prepare", lambda _model, place, **_given: fake_case(place, rounds=3))
    result = measure_over_links(asked, [LINK], folder, steps.append)
    return result, diary, steps


def test_every_engine_runs_over_every_link_beside_its_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, diary, steps = measured(tmp_path, monkeypatch, slow_bytes=2_000_000)
    assert [(row.network, row.engine, row.runs) for row in result.rows] == [
        *[("loopback", name, 2) for name in ("masked", "crypten", "plaintext")],
        *[("x", name, 2) for name in ("masked", "crypten")],  # no link changes plaintext
    ]
    predicted = add_predictions(result)
    masked, crypten = predicted.predictions
    assert [(one.network, one.engine) for one in (masked, crypten)] == [("x", "masked"), ("x", "crypten")]
    # 6 of 7 trips of 10 ms, 1 MB at 1 MB/s, 1 s of computing; the engine that computes nothing took 1 s.
    assert crypten.online_seconds == pytest.approx(2.06)
    assert crypten.online_error == pytest.approx(1.06)
    assert "crypten online +106%" in describe_errors(predicted.predictions)
    facts = result.links[1].measured
    assert facts is not None
    assert facts.round_trip_milliseconds >= 20.0
    assert diary.count("x masked closes") == 1
    assert steps[-1].done == steps[-1].total - 1
    assert steps[-1].seconds_left is not None
    kept = LinkResults.model_validate_json(save_link_results(tmp_path, result).read_text())
    assert kept.model_dump(mode="json") == result.model_dump(mode="json")
    assert add_predictions(kept).predictions == predicted.predictions


def test_an_engine_that_is_slow_over_a_link_runs_once_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, diary, _ = measured(tmp_path, monkeypatch, slow_bytes=200_000_000)
    assert [row.runs for row in result.rows] == [2, 2, 2, 2, 1]
    assert diary.count("x crypten measures") == 1
    assert diary.count("loopback crypten measures") == 3


@pytest.mark.slow
def test_a_tiny_model_over_an_emulated_link(tmp_path: Path) -> None:
    import os
    import subprocess

    from benchmarks.configuration import ROOT
    from tests.benchmarks.test_latency import own_files, processes_below
    from tests.end_to_end.models import write_tiny_model

    model = write_tiny_model(tmp_path / "model")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = ["--model", str(model), "--networks", "latency_ms=20,mbit=1000", "--runs", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "networks", *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = PredictedLinkResults.model_validate_json(done.stdout)
    assert [one.engine for one in result.predictions] == ["masked", "masked-stocked", "crypten", "stock-crypten"]
    rows = {row.engine: row for row in result.rows if row.network != "loopback"}
    assert set(rows) == {"masked", "masked-stocked", "crypten", "stock-crypten"}
    for row in rows.values():
        assert row.online_seconds >= 0.020 * (row.one_way_trips - 1)  # every trip took its latency
        assert row.max_abs_error < 0.1  # fixed point on a model whose logits are small
    assert processes_below(tmp_path) == []
    assert own_files(temporary) == []
