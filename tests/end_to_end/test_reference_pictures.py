"""A data owner checks the model that is served by reference pictures, through all parties.

The model is exact and opens heat maps, so that both are compared to the last bit.
"""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from contract.errors import ImageError, ReferenceMismatch
from contract.model_card import Arithmetic, OutputPolicy
from contract.ticket import Engine
from data_owner import mismatches
from data_owner.catalog import require_vouched
from data_owner.diagnosis import Diagnosis
from data_owner.mismatches import Mismatch
from data_owner.references import find_references, read_reference
from data_owner.session import Diagnoser
from data_owner.ui.folders import locate_history
from data_owner.ui.history import History
from model_owner.imported_models import ImportedModel
from secure_computation.channel.tls import tls_context
from secure_computation.private_weights import PrivateWeights
from tests.encrypted_inference.settings import write_settings
from tests.end_to_end.command_line import in_process
from tests.end_to_end.federation import HOSPITAL, SILENT, Federation, running_federation
from tests.end_to_end.models import NAME, radiograph


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(2):
        radiograph(folder / f"{seed}.dcm", seed=100 + seed)
    return folder


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Iterator[Federation]:
    model: dict[str, Any] = {"arithmetic": Arithmetic.EXACT}
    folder = tmp_path_factory.mktemp("checked")
    with running_federation(
        folder, output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP, model=model, references=pictures
    ) as federation:
        yield federation


def with_other_weights(model: ImportedModel, layer: int, *, by: float = 0.05) -> ImportedModel:
    """What a model owner that deviates might serve under the same card and plan: one weight is larger."""
    weights = {key: np.array(value) for key, value in model.weights.items()}
    weights[[name for name in weights if name.endswith("weight")][layer]].flat[0] += by
    return replace(model, weights=PrivateWeights(model.plan.network, weights), weights_version="ab" * 16)


def submit_all(diagnoser: Diagnoser, pictures: Path, own: Path) -> list[Any]:
    """A batch of one's own image between two reference pictures."""
    entry = diagnoser.choose_model(None)
    plan = diagnoser.catalog.fetch_plan(entry)
    first, last = (read_reference(one, entry, plan) for one in find_references(entry, pictures))
    ordinary = diagnoser.read(own, entry, force=False)
    return list(diagnoser.submit([first, ordinary, last], entry, engine=Engine.MASKED, progress=SILENT))


def test_the_registered_model_is_found_right_to_the_last_bit_beside_an_image_of_ones_own(
    checked: Federation, pictures: Path, chest: Path
) -> None:
    with checked.diagnoser() as (diagnoser, _):
        results = submit_all(diagnoser, pictures, chest)
    assert all(isinstance(one, Diagnosis) for one in results)
    assert len({one.logits for one in results}) == 3
    assert not any(warning.code == mismatches.CODE for one in results for warning in one.warnings)


@pytest.mark.parametrize("layer", [0, -1])
def test_another_model_is_found_out_told_and_kept(
    checked: Federation, pictures: Path, chest: Path, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    """Also where a single weight differs a little. The image of one's own is answered; a later one has a warning."""
    other = with_other_weights(checked.model, layer)
    with (
        monkeypatch.context() as patch,
        serving(checked, other, patch) as url,
        checked.diagnoser(model_owner_url=url) as (diagnoser, _),
    ):
        first, own, last = submit_all(diagnoser, pictures, chest)
        folder = diagnoser._settings.data_folder
        after = diagnoser.diagnose(
            chest, diagnoser.choose_model(None), engine=Engine.MASKED, force=False, progress=SILENT
        )
    for error in (first, last):
        assert type(error) is ReferenceMismatch
        assert "\n" not in str(error)
        assert "tiny-chest 1.0.0 answered the reference picture" in str(error)
        assert "otherwise than its owner, north-lab, signed: the " in str(error)
    assert isinstance(own, Diagnosis)
    assert [warning.code for warning in after.warnings].count(mismatches.CODE) == 1
    _require_evidence(checked, folder)


def serving(federation: Federation, model: ImportedModel, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(federation, "models", {(NAME, "1.0.0"): model})
    return federation.model_owner()


def _require_evidence(federation: Federation, folder: Path) -> None:
    """Two files that prove what the owner signed, and two lines of the history."""
    kept = [Mismatch.model_validate_json(path.read_bytes()) for path in (folder / mismatches.FOLDER).glob("*.json")]
    assert len(kept) == 2
    trust = tls_context(federation.credentials(HOSPITAL), server_side=False).trust()
    with federation.client() as client:
        for one in kept:
            require_vouched(one.entry, trust)
            assert client.session(one.session).model == NAME
            assert one.entry.card.references is not None
            signed = {each.file_sha256: each for each in one.entry.card.references.pictures}[one.file_sha256]
            assert one.answer is not None
            assert signed.find_worst(one.answer) is not None
    records = History(locate_history(folder)).records()
    assert {record.file_digest for record in records} == {one.file_sha256 for one in kept}
    assert all(record.warnings[0].code == mismatches.CODE for record in records)


def test_a_session_with_a_reference_picture_looks_like_any_other(
    checked: Federation, pictures: Path, chest: Path
) -> None:
    """The same tickets but for names and times, and the same bytes in the same number of trips on every link."""
    with checked.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        (one, *_) = find_references(entry, pictures)
        submission = read_reference(one, entry, diagnoser.catalog.fetch_plan(entry))
        first = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
        outcomes: list[Diagnosis] = []
        for sent in (diagnoser.read(chest, entry, force=False), submission):
            (result,) = diagnoser.submit([sent], entry, engine=Engine.MASKED, progress=SILENT)
            assert isinstance(result, Diagnosis)
            outcomes.append(result)
    assert first.logits == outcomes[0].logits != outcomes[1].logits
    own, reference = (outcome.bytes for outcome in outcomes)
    assert [link.model_dump(exclude={"offline"}) for link in own.links] == [
        link.model_dump(exclude={"offline"}) for link in reference.links
    ]
    assert own.online == reference.online
    assert abs(own.offline - reference.offline) <= 4, "but for digits of numbers in a ticket"
    assert outcomes[0].one_way_trips == outcomes[1].one_way_trips
    views = [
        view.model_dump(exclude={"id", "created_at", "expires_at", "ticket", "seconds", "bytes_sent"})
        for view in client.opened
    ]
    assert views[1] == views[2]


def test_a_picture_that_is_read_otherwise_than_at_the_owner_is_not_sent(checked: Federation, pictures: Path) -> None:
    """By another release, say: no session is opened, and the model is not blamed."""
    with checked.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        (one, *_) = find_references(entry, pictures)
        other = replace(one, picture=one.picture.model_copy(update={"input_sha256": "0" * 64}))
        with pytest.raises(ImageError, match="read here as another tensor than at north-lab"):
            read_reference(other, entry, diagnoser.catalog.fetch_plan(entry))
        assert client.opened == []


def test_the_command_says_what_was_compared(
    checked: Federation, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = write_settings(checked, tmp_path / "data-owner.toml")
    done = in_process(capfd, "verify", NAME, "--references", pictures, "--config", settings, "--sessions", "3")
    assert done.status == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.endswith("dcm: answered as north-lab signed, to the last bit") for line in lines[:3]] == [True] * 3
    assert lines[3] == "tiny-chest 1.0.0: 3 of 3 answers are those that north-lab signed."
    assert "with odds of 27%" in lines[4]
    done = in_process(capfd, "verify", "--config", settings)
    assert done.status == 2
    assert "give the folder of the model's reference pictures with --references" in done.stderr


def test_the_command_ends_with_a_status_of_its_own_if_an_answer_is_another(
    checked: Federation,
    pictures: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = write_settings(checked, tmp_path / "data-owner.toml")
    other = with_other_weights(checked.model, 1)
    with monkeypatch.context() as patch, serving(checked, other, patch) as url:
        content = tomllib.loads(settings.read_text())
        content["model_owners"] = [{"organisation": "north-lab", "url": url}]
        settings.write_text(tomli_w.dumps(content))
        told = in_process(capfd, "verify", "--references", pictures, "--config", settings)
        told_json = in_process(capfd, "verify", "--references", pictures, "--config", settings, "--json")
    assert told.status == told_json.status == 3
    assert "0 of 2 answers are those that north-lab signed." in told.stdout
    assert told.stderr.count("Do not rely on this model, and ask north-lab.") == 2
    shown = [json.loads(line) for line in told_json.stdout.splitlines()]
    assert [line["matches"] for line in shown] == [False, False]


def test_pictures_are_sent_along_with_ordinary_images_by_the_settings(
    checked: Federation,
    pictures: Path,
    chest: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is shown of them as long as the answers are right; here one goes along with every image."""
    settings = write_settings(checked, tmp_path / "data-owner.toml")
    settings.write_text(f'references = "{pictures}"\nreference_share = 0.5\n{settings.read_text()}')
    monkeypatch.setattr("data_owner.references._RANDOM", Certain(before=1))
    done = in_process(capfd, "diagnose", chest, "--config", settings, "--json", "--batch", "2")
    assert done.status == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["file"] == str(chest)
    assert json.loads(line)["batch"] == {"images": 2, "index": 1}


class Certain:
    """Chance, where all that may happen happens, and the first is always chosen."""

    def __init__(self, *, before: int) -> None:
        """`before`: 1 if the picture goes before the image, 0 if after it."""
        self._before = before

    def random(self) -> float:
        return 0.0

    def choice(self, found: Any) -> Any:
        return found[0]

    def getrandbits(self, _bits: int) -> int:
        return self._before
