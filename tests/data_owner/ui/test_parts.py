"""The page's parts alone: time left, folders, errors in words, the heat map's layer, the command."""

import io
import os
import re
import signal
import stat
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any, Self, cast
from unittest.mock import MagicMock

import httpx
import numpy as np
import pytest
from PIL import Image

from contract import errors
from contract.errors import (
    BudgetSpent,
    ConfigurationError,
    DeadlineExceeded,
    EncryptedInferenceError,
    PeerReported,
    SessionCancelled,
)
from data_owner.heat_map import draw_layer
from data_owner.progress import Cancellation, Progress, Stage
from data_owner.settings import DataOwnerSettings
from data_owner.ui.folders import Folders
from data_owner.ui.history import make_record_id
from data_owner.ui.runner import Runner
from data_owner.ui.showing import measure_progress
from data_owner.ui.timings import Run, Timings
from data_owner.ui.words import describe_defect, describe_error
from data_owner.ui.workplace import Activity, Workplace
from demonstration.commands import make_command, make_quiet_environment


class Canary(datetime):
    """A date that cannot be written."""

    def __new__(cls) -> Self:
        return super().__new__(cls, 2026, 1, 31)

    def __format__(self, form: str) -> str:
        raise ValueError("canary")


KIND = "tiny 1.0.0 masked, from stock"


def test_time_left_is_unknown_at_first_and_then_what_earlier_runs_took(tmp_path: Path) -> None:
    timings = Timings(tmp_path / "timings.json")
    run = Run(expected=timings.expected(KIND))
    run.reach("opening", at=0.0)
    run.reach("layers", at=2.0)
    assert run.left(at=3.0) is None
    assert run.fraction(at=3.0) is None
    timings.finish(KIND, run, total=10.0)
    assert stat.S_IMODE((tmp_path / "timings.json").stat().st_mode) == 0o600

    later = Run(expected=Timings(tmp_path / "timings.json").expected(KIND))
    later.reach("opening", at=0.0)
    assert later.left(at=1.0) == pytest.approx(9.0)
    later.reach("layers", at=4.0)  # slower than before: what is left is counted from this point
    assert later.left(at=4.0) == pytest.approx(8.0)
    assert later.fraction(at=4.0) == pytest.approx(4 / 12)
    assert later.left(at=40.0) == 0.0


def test_damaged_timings_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "timings.json").write_text('{"profiles": 3')
    assert Timings(tmp_path / "timings.json").expected(KIND) is None


def test_one_page_at_a_time_has_a_data_folder_and_cleans_up_after_a_crash(tmp_path: Path) -> None:
    first = Folders(tmp_path)
    (first.new_entry() / "file").write_text("an image")
    with pytest.raises(ConfigurationError, match="runs already"):
        Folders(tmp_path)
    if first._lock is not None:
        os.close(first._lock)  # what a crash leaves: no lock, and files
    second = Folders(tmp_path)
    assert list((tmp_path / "page" / "uploads").iterdir()) == []
    second.close()
    second.close()
    assert not (tmp_path / "page" / "uploads").exists()


EVERY_ERROR = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EncryptedInferenceError) and kind is not EncryptedInferenceError
]


@pytest.mark.parametrize("kind", EVERY_ERROR, ids=lambda kind: kind.code)
def test_every_error_has_a_title_and_a_next_step(kind: type[EncryptedInferenceError]) -> None:
    error = (
        DeadlineExceeded(peer="the model owner", step="opening", waited_seconds=1.0)
        if kind is DeadlineExceeded
        else kind("what happened")
    )
    words = describe_error(error)
    assert words.code == kind.code
    assert words.title
    assert words.title != describe_error(EncryptedInferenceError("")).title
    assert len(words.advice) > 20
    assert words.detail == str(error)


def test_a_budget_that_the_model_owner_keeps_is_told_as_the_front_ends_is() -> None:
    ours = describe_error(BudgetSpent("20 answers a day: wait until tomorrow"))
    theirs = describe_error(PeerReported("model owner: wait until tomorrow", reported=BudgetSpent.code))
    assert (theirs.code, theirs.title, theirs.advice) == (ours.code, ours.title, ours.advice)
    assert "wait until tomorrow" in theirs.detail
    assert describe_error(PeerReported("wait until tomorrow", reported="refused")).title != ours.title


def test_a_defect_is_told_by_its_place_without_a_word_of_the_error() -> None:
    with pytest.raises(ValueError, match="canary") as caught:
        make_record_id(Canary())
    words = describe_defect(caught.value)
    assert re.fullmatch(r"a defect at data_owner/ui/history\.py, line \d+", words.detail)


def test_a_heat_maps_layer_is_opaque_where_most_speaks_for_the_class() -> None:
    grid = np.array([[4.0, 0.0], [-3.0, 0.0]])
    with Image.open(io.BytesIO(draw_layer(grid, rows=40, columns=60))) as layer:
        assert (layer.mode, layer.size) == ("RGBA", (60, 40))
        alpha = np.asarray(layer)[..., 3]
    assert alpha[0, 0] == 255
    assert alpha[0, -1] == alpha[-1, 0] == alpha[-1, -1] == 0


def test_what_is_given_up_ends_at_the_next_stage_or_layer() -> None:
    cancellation, seen = Cancellation(), list[str]()
    progress = Progress(stage=seen.append, layer=lambda index, _total, _name: seen.append(str(index))).until(
        cancellation
    )
    progress.stage(Stage.OPENING)
    progress.layer(1, 2, "relu")
    cancellation.cancel()
    with pytest.raises(SessionCancelled):
        progress.layer(2, 2, "relu")
    with pytest.raises(SessionCancelled):
        progress.stage(Stage.COMPUTING)
    assert seen == [Stage.OPENING, "1"]


def test_the_page_says_each_stage_in_its_own_words(tmp_path: Path) -> None:
    """Also where the model owner has lost what was in stock, so that material is made after all."""
    workplace = Workplace(Folders(tmp_path), stock_days=7.0)
    runner, model = Runner(cast("Any", None), workplace), MagicMock()
    workplace.activity = Activity(entry="one", run=Run(expected=None))
    progress, shown = runner._progress(workplace.activity, model), list[tuple[str, str]]()
    for stage in (Stage.OPENING, Stage.FROM_STOCK, Stage.PREPARING, Stage.COMPUTING):
        progress.stage(stage)
        now = measure_progress(workplace)
        assert now is not None
        shown.append((now["step"], now["words"]))
    assert shown == [
        ("opening", "Opening a session"),
        ("material", "Taking offline material from stock"),
        ("material", "Preparing offline material"),
        ("layers", "Computing on shares"),
    ]


def test_the_command_prints_one_address_and_ends_without_a_trace(settings: DataOwnerSettings, tmp_path: Path) -> None:
    import tomli_w

    written = settings.model_dump(mode="json", exclude_none=True)
    written["inference_service"]["api_key"] = settings.inference_service.api_key.get_secret_value()
    config = tmp_path / "data-owner.toml"
    config.write_text(tomli_w.dumps(written))
    process = subprocess.Popen(
        make_command("data-owner", ["ui", "--config", str(config), "--no-browser"]),
        env=make_quiet_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        origin, _, token = address.partition("/?token=")
        assert origin.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=origin, trust_env=False, timeout=60) as browser:
            assert browser.get("/").status_code == 403
            assert browser.get(f"/?token={token}").status_code == 200
            assert "Choose images" in browser.get("/").text
        process.send_signal(signal.SIGTERM)
        rest, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert rest == ""
    assert token not in said
    assert "Traceback" not in said
    assert not (settings.data_folder / "page" / "uploads").exists()
