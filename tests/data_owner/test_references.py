"""Reference pictures at the data owner: which files are sent, and when."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contract.api import ModelEntry, PartyAddress
from contract.errors import CallerError
from contract.model_card import ModelCard
from contract.references import MOST_REFERENCE_BYTES
from contract.ticket import Engine
from data_owner.references import MOST_FILES, FoundReference, ReferenceMixer, find_references
from data_owner.settings import DataOwnerSettings
from data_owner.verifying import choose_sessions

CONTENTS = (b"first", b"second", b"third")


def entry_with(*contents: bytes, engines: tuple[Engine, ...] = (Engine.MASKED,)) -> ModelEntry:
    """A model that has these files for reference pictures."""
    pictures = [
        {"file_sha256": hashlib.sha256(one).hexdigest(), "input_sha256": f"{number:064x}", "numbers": [number, 0]}
        for number, one in enumerate(contents)
    ]
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0.0",
        "title": "Tiny",
        "intended_use": "tests",
        "input": {"modalities": ["CR"], "height": 8, "width": 8, "mean": [0.5], "standard_deviation": [0.25]},
        "classes": ["a", "b"],
        "training": "none",
        "model_sha256": "0" * 64,
        "references": {"plan_hash": "cd" * 32, "pictures": pictures} if pictures else None,
    }
    party = PartyAddress(organisation="north-lab", address="wss://a.example/v2")
    return ModelEntry(
        card=ModelCard.model_validate(fields),
        version="1.0.0",
        plan_hash="cd" * 32,
        engines=engines,
        model_owner=party,
        crypto_provider=party,
    )


def write(folder: Path, *contents: bytes) -> Path:
    for number, one in enumerate(contents):
        (folder / f"{number}.png").write_bytes(one)
    return folder


def test_pictures_are_told_by_their_content_whatever_they_are_called_and_lie_beside(tmp_path: Path) -> None:
    write(tmp_path, b"of another model", CONTENTS[2], CONTENTS[0], CONTENTS[0])
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MOST_REFERENCE_BYTES + 1)
    found = find_references(entry_with(*CONTENTS), tmp_path)
    assert {(one.picture.numbers[0], one.path.name) for one in found} == {(2, "1.png"), (0, "2.png")}


def test_a_folder_without_any_of_them_is_refused(tmp_path: Path) -> None:
    """One bit of each differs, or they are those of a newer version."""
    write(tmp_path, b"First", b"newer")
    with pytest.raises(CallerError, match=r"holds none of the 3 reference pictures of tiny 1.0.0: ask north-lab for"):
        find_references(entry_with(*CONTENTS), tmp_path)


@pytest.mark.parametrize("entry", [entry_with(), entry_with(*CONTENTS, engines=(Engine.CRYPTEN,))])
def test_a_model_without_reference_pictures_is_not_checked(tmp_path: Path, entry: ModelEntry) -> None:
    with pytest.raises(CallerError, match="no reference pictures: ask north-lab to import it with --references"):
        find_references(entry, write(tmp_path, *CONTENTS))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="cannot be read"):
        find_references(entry_with(*CONTENTS), tmp_path / "nowhere")
    write(tmp_path, *[b"x"] * (MOST_FILES + 1))
    with pytest.raises(CallerError, match="holds more than 256 files"):
        find_references(entry_with(*CONTENTS), tmp_path)


def found_in(folder: Path) -> tuple[FoundReference, ...]:
    return find_references(entry_with(*CONTENTS), write(folder, *CONTENTS))


def test_pictures_are_sent_along_as_often_as_asked_before_and_after_alike(tmp_path: Path) -> None:
    """Of 20,000 images 4,000 have company, 2,000 of them before: six deviations are 340 and 260."""
    mixer, found = ReferenceMixer(found_in(tmp_path), 0.2), Counter[str]()
    chosen = Counter[int]()
    for _ in range(20_000):
        sent = mixer.surround("own")
        assert sent.count("own") == 1
        assert len(sent) <= 2
        found["alone" if len(sent) == 1 else "after" if sent[0] == "own" else "before"] += 1
        chosen.update(one.picture.numbers[0] for one in sent if isinstance(one, FoundReference))
    assert abs(found["before"] + found["after"] - 4000) < 340
    assert abs(found["before"] - 2000) < 260
    assert all(abs(count - 4000 / 3) < 220 for count in chosen.values())
    assert len(chosen) == 3


def make_settings(**changes: Any) -> DataOwnerSettings:
    return DataOwnerSettings.model_construct(references=None, reference_share=0.05).model_copy(update=changes)


@pytest.mark.parametrize("changes", [{}, {"references": Path("nowhere"), "reference_share": 0.0}])
def test_nothing_is_sent_along_or_said_unless_the_settings_ask(changes: dict[str, Any]) -> None:
    told: list[str] = []
    mixer = ReferenceMixer.of(make_settings(**changes), entry_with(*CONTENTS), Engine.MASKED, tell=told.append)
    assert mixer.surround("own") == ("own",)
    assert told == []


def test_settings_that_cannot_be_followed_are_said_and_stop_no_diagnosis(tmp_path: Path) -> None:
    settings, told = make_settings(references=write(tmp_path, *CONTENTS), reference_share=0.5), list[str]()
    for entry, engine in ((entry_with(), Engine.MASKED), (entry_with(*CONTENTS), Engine.CRYPTEN)):
        assert ReferenceMixer.of(settings, entry, engine, tell=told.append).surround("own") == ("own",)
    without, crypten = told
    assert without.startswith("no reference pictures are sent along: the card of tiny 1.0.0 has no reference pictures")
    assert crypten == "no reference pictures are sent along: the engine 'crypten' cannot be checked by them"


@pytest.mark.parametrize(("sessions", "counts"), [(None, [1, 1, 1]), (1, [0, 0, 1]), (7, [2, 2, 3])])
def test_each_picture_is_sent_as_often_as_the_others(tmp_path: Path, sessions: int | None, counts: list[int]) -> None:
    found = found_in(tmp_path)
    chosen = choose_sessions(found, sessions)
    assert sorted(chosen.count(one) for one in found) == counts
