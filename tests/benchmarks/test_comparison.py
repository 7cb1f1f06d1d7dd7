"""The comparison: peers that fail, differ or are missing are rows; the others are measured; nothing stays behind."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from benchmarks.__main__ import app
from benchmarks.case import Case, CompiledFiles, Pictures
from benchmarks.comparison import PeerRow, Peers, Status, measure_peers
from benchmarks.document.blocks import print_shown
from benchmarks.document.other_systems import show_peers
from benchmarks.engines import ENGINES, PEERS, Peer, catalogue, plaintext
from benchmarks.engines.stock_crypten import PARTIES, StockCrypTen
from benchmarks.measuring import Measurement, Opener, Step
from benchmarks.processes import Finished
from contract.errors import ComputationFailed, ConfigurationError
from plumbing.command_line import run
from tests.benchmarks.fakes import fake_case, measurement
from tests.benchmarks.test_latency import tiny_model
from tests.end_to_end.models import radiograph

__all__ = ["tiny_model"]  # a fixture


class Scripted:
    """Answers as onnxruntime does, shifted; fails in the run that is named."""

    def __init__(self, shift: float, fails_in: int | None) -> None:
        self._shift = shift
        self._fails_in = fails_in
        self._runs = 0

    def measure(self, pictures: Pictures) -> Measurement:
        self._runs += 1
        if self._runs - 1 == self._fails_in:
            raise ComputationFailed("a party ended early:\nkilled")
        logits = tuple(float(one) + self._shift * (-1) ** place for place, one in enumerate(pictures.expected[0]))
        return replace(measurement(float(self._runs)), logits=logits)


def peer(diary: list[str], name: str = "peer", shift: float = 0.0, fails_in: int | None = None, **options: Any) -> Peer:
    @contextmanager
    def opened(case: Case, _timeout_seconds: float) -> Iterator[Scripted]:
        diary.append(f"{name} opens at {case.size}")
        try:
            yield Scripted(shift, fails_in)
        finally:
            diary.append(f"{name} closes")

    opener: Opener = opened
    return Peer(system="a system", configuration="as it comes", trust="nobody", opener=opener, **options)


def compared(folder: Path, peers: dict[str, Peer], steps: list[Step] | None = None) -> Peers:
    place = folder.parent / "measured"
    place.mkdir()
    on_step = (steps if steps is not None else []).append
    return measure_peers(folder, place, on_step, peers=peers, runs=2, seed=1, timeout_seconds=60)


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder that nobody reads: the case of 8 x 8 pixels is given."""
    monkeypatch.setattr(
        "benchmarks.comparison.prepare", lambda _model, folder, *, seed, rounds: fake_case(folder, rounds=rounds)
    )
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def cannot_install() -> NoReturn:
    raise ConfigurationError("no way there")


def test_one_bad_peer_does_not_stop_the_others(drawn: Path) -> None:
    diary: list[str] = []
    steps: list[Step] = []
    result = compared(
        drawn,
        {
            "good": peer(diary, "good", shift=0.01, counts_trips=True),
            "crashes": peer(diary, "crashes", fails_in=1),
            "missing": peer(diary, "missing", prepare=cannot_install),
            "differs": peer(diary, "differs", shift=-100.0),
            "no numbers": peer(diary, "no numbers", shift=math.nan),
        },
        steps,
    )
    rows = {row.peer: row for row in result.rows}
    assert {name: row.status for name, row in rows.items()} == {
        "good": Status.MEASURED,
        "crashes": Status.FAILED,
        "missing": Status.NOT_INSTALLED,
        "differs": Status.DIFFERENT,
        "no numbers": Status.DIFFERENT,
    }
    check_good(rows["good"])
    assert rows["crashes"].reason == "a party ended early: killed"
    assert rows["crashes"].online_seconds is None
    assert len(rows["crashes"].evaluations) == 1  # the warm-up went well
    assert rows["missing"].reason == "no way there"
    assert rows["differs"].max_logit_error == pytest.approx(100, rel=1e-3)
    assert rows["differs"].label_equal is False
    assert rows["differs"].one_way_trips is None
    assert rows["no numbers"].max_logit_error is None
    assert [row.peer for row in result.doubtful] == ["crashes", "differs", "no numbers"]
    # Opened once, closed once; the one that failed before the others went on.
    assert sorted(line for line in diary if "closes" in line) == sorted(
        f"{name} closes" for name in ("good", "crashes", "differs", "no numbers")
    )
    assert diary.index("crashes closes") < diary.index("good closes")
    assert not any("missing" in line for line in diary)
    assert steps[0].seconds_left is None
    assert steps[-1].seconds_left is not None
    assert all(step.done <= step.total for step in steps)


def check_good(row: PeerRow) -> None:
    assert row.reason is None
    assert row.runs == 2
    assert row.online_seconds is not None
    assert (row.online_seconds.median, row.online_seconds.smallest, row.online_seconds.largest) == (2.5, 2.0, 3.0)
    assert row.max_logit_error == pytest.approx(0.01)
    assert row.label_equal is True
    assert row.one_way_trips == 7
    assert row.cpu_seconds == {"data_owner": 0.625}
    assert row.peak_rss_bytes == {"data_owner": 100}
    assert [one.run for one in row.evaluations] == [0, 1, 2]


def test_a_peer_for_small_images_meets_the_others_there(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.case.write_phantom", radiograph)  # a phantom takes a second to draw
    card = json.loads((tiny_model / "card.json").read_text())
    card["input"] |= {"height": 96, "width": 96}
    (tiny_model / "card.json").write_text(json.dumps(card))
    resize_model(tiny_model / "model.onnx", 96)
    diary: list[str] = []
    result = compared(
        tiny_model,
        {
            "both": peer(diary, "both", small=True),
            "full": peer(diary, "full"),
            "slow": peer(diary, "slow", full_size=False, small=True),
        },
    )
    assert [(row.peer, row.size) for row in result.rows] == [("both", 96), ("full", 96), ("both", 64), ("slow", 64)]
    assert [(one.size, one.run) for one in result.expected] == [(size, run) for size in (96, 64) for run in range(3)]
    assert all(row.status is Status.MEASURED for row in result.rows)
    # Processes of one size are gone before those of the other start.
    assert diary.index("full closes") < diary.index("both opens at 64")


def resize_model(path: Path, side: int) -> None:
    import hashlib

    import onnx

    model = onnx.load(path)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[-2:]:
        dimension.dim_value = side
    path.write_bytes(model.SerializeToString())
    card = json.loads((path.parent / "card.json").read_text())
    card["model_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "card.json").write_text(json.dumps(card))


def test_a_model_that_is_small_already_is_measured_once(drawn: Path) -> None:
    slow = peer([], "slow", full_size=False, small=True)
    result = compared(drawn, {"both": peer([], "both", small=True), "slow": slow})
    assert [(row.peer, row.size) for row in result.rows] == [("both", 8), ("slow", 8)]


def test_an_interruption_takes_every_peer_down(drawn: Path) -> None:
    diary: list[str] = []

    def interrupt(step: Step) -> None:
        if "run 1" in step.words:
            raise KeyboardInterrupt

    place = drawn.parent / "measured"
    place.mkdir()
    peers = {name: peer(diary, name) for name in ("one", "other")}
    with pytest.raises(KeyboardInterrupt):
        measure_peers(drawn, place, interrupt, peers=peers, runs=2, seed=1, timeout_seconds=60)
    assert {"one closes", "other closes"} <= set(diary)


def test_the_result_is_kept_shown_and_read_again(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = compared(drawn, {"fine": peer([]), "missing": peer([], prepare=cannot_install)})
    saved = drawn.parent / "peers.json"
    saved.write_text(result.model_dump_json())
    assert Peers.model_validate_json(saved.read_bytes()) == result
    print_shown(show_peers(result))
    shown = capsys.readouterr().out
    assert "not installed: no way there" in shown
    assert "nobody" in shown  # whom it trusts
    result.require_agreement()  # what is not installed is no failure
    worse = result.model_copy(
        update={"rows": tuple(r.model_copy(update={"status": Status.FAILED}) for r in result.rows)}
    )
    with pytest.raises(ComputationFailed, match=r"fine at 8 \(failed\)"):
        worse.require_agreement()


def test_every_peer_is_known_and_states_its_trust() -> None:
    known = catalogue(install=False)
    assert set(known) == {*PEERS, *ENGINES.values()}
    assert all(one.trust and one.configuration and (one.full_size or one.small) for one in known.values())


def test_a_plaintext_program_that_prints_no_answer(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        plaintext,
        "run_watched",
        lambda *_a, **_o: Finished(output="{}", peak_rss_bytes=1, cpu_seconds=1.0, seconds=1.0),
    )
    engine = plaintext.Plaintext("onnxruntime", [], tiny_model, 60)
    with pytest.raises(ComputationFailed, match="did not print one answer"):
        engine.measure(fake_case(tiny_model).pictures(0))


@pytest.mark.parametrize("report", ["", "{", "[]", '{"bytes": "many"}'])
def test_a_report_of_stock_crypten_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: str
) -> None:
    def pretend(_engine: StockCrypTen, folder: Path, _images: Path) -> None:
        for party in PARTIES:
            (folder / f"{party}.json").write_text(report)

    monkeypatch.setattr(StockCrypTen, "_run", pretend)
    files = CompiledFiles(network=tmp_path / "network.json", weights=tmp_path / "weights.npz")
    with pytest.raises(ComputationFailed, match="cannot be read"):
        StockCrypTen(files, 60).evaluate(tmp_path / "image.npy")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--peers", "masked,quantum"], "unknown peer 'quantum': give --peers some of masked"),
        (["--peers", ","], "no peer named"),
        (["--peers", "masked,masked"], "--peers names one twice"),
        (["--model", "resnet9000"], "unknown model 'resnet9000'"),
        (["--save", "nowhere/peers.json"], "is not a file in a folder that exists"),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(app, name="bench", arguments=["peers", *arguments])
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
