"""Reference pictures at import: what a card comes to vouch for, and the folders that will not do."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import CallerError, EncryptedInferenceError
from contract.model_card import Arithmetic, OutputPolicy
from contract.references import MOST_REFERENCE_BYTES, MOST_REFERENCES
from imaging.reading import read_model_input
from model_owner.imported_models import CARD, MANIFEST, ImportedModel, ImportedModels
from model_owner.references import make_references
from secure_computation.at_rest import StorageKey
from secure_computation.engines.interface import Label
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.plan.whole_answers import to_whole_numbers
from tests.end_to_end.models import CLASSES, radiograph, write_tiny_model

KEY = StorageKey(b"k" * 32)


def imported(folder: Path, *, pictures: Path | None, **model: Any) -> ImportedModel:
    written = write_tiny_model(folder / "model", **model)
    registry = ImportedModels(folder / "registry", KEY)
    return registry.add(written / "model.onnx", written / "card.json", references=pictures)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(2):
        radiograph(folder / f"{seed}.dcm", seed=seed)
    return folder


def evaluate(model: ImportedModel, path: Path, *draws: reference.Dithers) -> list[tuple[int, ...]]:
    """The answers of sessions with these dithers, in clear."""
    lowering = model.plan.engines.masked
    assert lowering is not None
    image = reference.quantise_image(lowering, read_model_input(path, model.card.input).tensor)
    weights, shown, answers = round_weights(lowering, model.weights), lowering.heat_map, []
    for dithers in draws:
        seen: dict[str, Any] = {}
        logits = reference.evaluate(lowering, weights, image, dithers=dithers, observe=seen.__setitem__)
        heat_map = None if shown is None else seen[shown.name] / shown.value.scale
        label = Label(reference.find_label(logits))
        answer = label if lowering.gives_label else reference.read_logits(lowering, logits)
        numbers = to_whole_numbers(lowering, answer, heat_map)
        assert numbers is not None
        answers.append(numbers)
    return answers


@pytest.mark.parametrize("policy", OutputPolicy)
def test_an_exact_model_vouches_for_its_answers_to_the_last_bit(
    tmp_path: Path, pictures: Path, policy: OutputPolicy
) -> None:
    model = imported(tmp_path, pictures=pictures, output_policy=policy, arithmetic=Arithmetic.EXACT)
    assert model.card.references is not None
    assert model.card.references.plan_hash == model.plan_hash
    for one, path in zip(model.card.references.pictures, sorted(pictures.iterdir()), strict=True):
        assert one.tolerances == ()
        assert [one.numbers] == evaluate(model, path, reference.middle_dither)


def test_a_dithered_model_vouches_for_what_rounding_at_random_can_do(tmp_path: Path, pictures: Path) -> None:
    """No answer of 200 sessions is beyond, by far; and the tolerance is no licence: forty deviations at most."""
    model = imported(tmp_path, pictures=pictures, output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP)
    assert model.card.references is not None
    one, path = model.card.references.pictures[0], min(pictures.iterdir())
    draw = reference.draw_dithers(np.random.default_rng(5))
    answers = np.array(evaluate(model, path, *[draw] * 200))
    beyond = np.abs(answers - np.array(one.numbers)) / np.array(one.tolerances)
    logits = slice(0, len(CLASSES))
    assert 0.05 < beyond[:, logits].max() < 0.6
    assert (np.array(one.tolerances[logits]) < 40 * answers[:, logits].std(axis=0)).all()
    assert beyond.max() < 1


def test_a_dithered_label_is_vouched_for_as_it_is(tmp_path: Path, pictures: Path) -> None:
    model = imported(tmp_path, pictures=pictures, output_policy=OutputPolicy.LABEL_ONLY)
    assert model.card.references is not None
    one, draw = model.card.references.pictures[0], reference.draw_dithers(np.random.default_rng(5))
    assert one.tolerances == ()
    assert set(evaluate(model, min(pictures.iterdir()), *[draw] * 50)) == {one.numbers}


def test_a_label_that_chance_decides_is_not_vouched_for(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_owner.references._choose_factor", lambda numbers: 1e6)
    with pytest.raises(EncryptedInferenceError, match=r"0\.dcm: its most probable classes are too close"):
        imported(tmp_path, pictures=pictures, output_policy=OutputPolicy.LABEL_ONLY)


def test_the_stored_card_keeps_them_and_no_other_card_opens_the_weights(tmp_path: Path, pictures: Path) -> None:
    """Whoever writes to the disk, and to the manifest, has no classes signed in another order."""
    model = imported(tmp_path, pictures=pictures, arithmetic=Arithmetic.EXACT)
    registry = ImportedModels(tmp_path / "registry", KEY)
    assert registry.load().card == model.card
    card, manifest = model.folder / CARD, model.folder / MANIFEST
    before = hashlib.sha256(card.read_bytes()).hexdigest()
    swapped = model.card.model_copy(update={"classes": (CLASSES[1], CLASSES[0], CLASSES[2])})
    card.write_text(swapped.model_dump_json(indent=2))
    manifest.write_text(manifest.read_text().replace(before, hashlib.sha256(card.read_bytes()).hexdigest()))
    with pytest.raises(EncryptedInferenceError, match="delete the folder and import the model again"):
        registry.load()


def write_nothing(_folder: Path) -> None:
    pass


def write_many(folder: Path) -> None:
    for number in range(MOST_REFERENCES + 1):
        (folder / f"{number}.png").write_bytes(b"x")


def write_huge(folder: Path) -> None:
    with (folder / "huge.dcm").open("wb") as file:
        file.truncate(MOST_REFERENCE_BYTES + 1)


def write_twins(folder: Path, **tags: str) -> None:
    radiograph(folder / "a.dcm", seed=3)
    radiograph(folder / "b.dcm", seed=3, **tags)


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (write_nothing, "holds 0 files: put 1 to 16 reference pictures there"),
    "hidden files alone": (lambda folder: (folder / ".DS_Store").write_bytes(b"x"), "holds 0 files"),
    "too many": (write_many, "holds 17 files"),
    "a folder in it": (lambda folder: (folder / "more").mkdir(), "more: is no file"),
    "a huge file": (write_huge, "huge.dcm: larger than 64 MiB"),
    "a broken link": (lambda folder: (folder / "gone.dcm").symlink_to(folder / "nowhere"), "gone.dcm: is no file"),
    "no folder": (lambda folder: folder.rmdir(), "cannot be read"),
    "no picture": (lambda folder: (folder / "readme.txt").write_text("these are the pictures"), "readme.txt: "),
    "the same file twice": (write_twins, "b.dcm and a.dcm are the same picture: remove one of the two"),
    "the same picture twice": (
        lambda folder: write_twins(folder, PatientName="Another^Patient"),
        "b.dcm and a.dcm are the same picture",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_folder_that_will_not_do_is_refused_in_one_line_and_nothing_is_imported(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    fill, words = UNFIT[case]
    fill(folder)
    with pytest.raises(CallerError, match=words) as refused:
        imported(tmp_path, pictures=folder, arithmetic=Arithmetic.EXACT)
    assert "\n" not in str(refused.value)
    assert not ImportedModels(tmp_path / "registry", KEY).versions()


def test_a_card_that_brings_references_along_is_refused(tmp_path: Path, pictures: Path) -> None:
    """Say, the stored card of a newer version: they are not of this import's plan."""
    model = imported(tmp_path / "newer", pictures=pictures, arithmetic=Arithmetic.EXACT)
    assert model.card.references is not None
    with pytest.raises(EncryptedInferenceError, match="references: the import fills them in"):
        imported(tmp_path, pictures=None, arithmetic=Arithmetic.EXACT, references=model.card.references)


def test_answers_that_differ_from_run_to_run_are_not_vouched_for(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(EncryptedInferenceError, match="computed on CrypTen's tensors"):
        imported(tmp_path, pictures=pictures, softmax=True)


def test_an_answer_too_long_for_a_card_is_refused(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_owner.references.MOST_REFERENCE_NUMBERS", 5)
    with pytest.raises(EncryptedInferenceError, match=r"has 3 numbers, and a card holds 5 .*: leave 1 in the folder"):
        imported(tmp_path, pictures=pictures, arithmetic=Arithmetic.EXACT)


def test_a_model_without_a_masked_plan_has_none(tmp_path: Path, pictures: Path) -> None:
    model = imported(tmp_path, pictures=None, arithmetic=Arithmetic.EXACT)
    plan = model.plan.model_copy(update={"engines": model.plan.engines.model_copy(update={"masked": None})})
    with pytest.raises(EncryptedInferenceError, match="only the masked engine's answers can be vouched for"):
        make_references(sorted(pictures.iterdir()), model.card, plan, model.weights)
