"""Images are read once, lazily, and are what serving reads; unusual and bad data is told by hospital and file."""

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contract.errors import ConfigurationError
from federated_learning.augmentation import resize
from federated_learning.data_source import image_store
from federated_learning.data_source.images import LazyImages
from federated_learning.data_source.preparing import Prepared, open_source, prepare
from federated_learning.local_training import LocalTrainer
from federated_learning.run_records import Description
from federated_learning.training_settings import Stage, TrainingSettings
from imaging import reading
from imaging.reading import read_model_input
from tests.federated_learning.conftest import CLASSES, draw
from tests.imaging import samples


def prepared(
    data: tuple[Path, Path], description: Description, role: str = "train", *, skip_unusable: bool = False
) -> Prepared:
    manifest, folder = data
    source = open_source(folder, classes=CLASSES, table=manifest)
    cache = manifest.parent / "cache"
    return prepare(source, [role], description.input, cache=cache, hospital="north", skip_unusable=skip_unusable)


def test_images_are_bit_for_bit_what_serving_reads(drawn_data: tuple[Path, Path], description: Description) -> None:
    found = prepared(drawn_data, description)
    assert found.images.shape == (36, 1, 32, 32)
    assert len(found.images) == len(found.examples) == 36
    expected = np.stack([read_model_input(one.path, description.input).tensor for one in found.examples])
    np.testing.assert_array_equal(found.images[:], expected)
    np.testing.assert_array_equal(found.images[np.array([5, 2])], expected[[5, 2]])
    assert found.class_counts == {"plain": 12, "bright": 12, "striped": 12}
    assert found.warnings == ()
    other = description.input.model_copy(update={"mean": (0.1,), "standard_deviation": (0.5,)})
    again = np.stack([read_model_input(one.path, other).tensor for one in found.examples])
    np.testing.assert_array_equal(found.images.with_statistics((0.1,), (0.5,))[:], again)


def test_dicom_studies_of_patients(tmp_path: Path) -> None:
    """As an archive exports them: CLASS/PATIENT/STUDY/file, without suffixes."""
    wanted, folder = samples.specification(side=8), tmp_path / "images"
    for patient, label in (("p1", "plain"), ("p2", "bright")):
        for number in (1, 2):
            file = folder / label / patient / "study" / f"IM{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            stored = samples.picture(seed=number, bits=12)
            file.write_bytes(samples.dicom_bytes(samples.data_set(stored, bits=12)))
    source = open_source(folder, classes=CLASSES)
    found = prepare(source, ["all"], wanted, cache=tmp_path / "cache", hospital="north")
    assert tuple(example.patient for example in found.examples) == ("p1", "p1", "p2", "p2")
    expected = np.stack([read_model_input(one.path, wanted).tensor for one in found.examples])
    np.testing.assert_array_equal(found.images[:], expected)
    wrong = folder / "plain" / "p1" / "study" / "IM2"
    wrong.write_bytes(samples.dicom_bytes(samples.data_set(samples.picture(bits=12), bits=12, Modality="CT")))
    with pytest.raises(ConfigurationError, match=r"hospital north: .*IM2: the file's modality is CT"):
        prepare(source, ["all"], wanted, cache=tmp_path / "cache", hospital="north")


def test_three_channels_are_the_grey_picture_thrice(drawn_data: tuple[Path, Path], description: Description) -> None:
    colours = description.input.model_copy(
        update={"channels": 3, "mean": (0.1, 0.2, 0.3), "standard_deviation": (0.2, 0.3, 0.4)}
    )
    found = prepared(drawn_data, description.model_copy(update={"input": colours}))
    np.testing.assert_array_equal(found.images[:1][0], read_model_input(found.examples[0].path, colours).tensor)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which files were decoded."""
    found: list[Path] = []

    def noted(path: Path, *arguments: object, **options: object) -> object:
        found.append(path)
        return read_model_input(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "read_model_input", noted)
    return found


def test_what_was_read_is_read_again_only_where_something_changed(
    drawn_data: tuple[Path, Path], description: Description, reads: list[Path]
) -> None:
    first = prepared(drawn_data, description)
    os.utime(first.examples[0].path)  # a copy of the same content is the same
    prepared(drawn_data, description)
    assert len(reads) == 36
    smaller = description.model_copy(update={"input": description.input.model_copy(update={"height": 16})})
    assert prepared(drawn_data, smaller).images.shape == (36, 1, 16, 32)
    assert len(reads) == 72
    Image.fromarray(np.full((32, 32), 9, dtype=np.uint8)).resize((8, 8)).save(first.examples[0].path)
    edited = first.examples[1].path
    shutil.copyfile(edited, first.examples[0].path)
    changed = prepared(drawn_data, description)
    assert len(reads) == 108
    np.testing.assert_array_equal(changed.images[:1], changed.images[1:2])
    cache = drawn_data[0].parent / "cache"
    assert len(list(cache.iterdir())) == 2  # what it was before is gone
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}


def test_shrunk_pictures_stay_on_the_disk_too(
    drawn_data: tuple[Path, Path], description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prepared(drawn_data, description)
    small = found.images.at_size(16)
    assert small.shape == (36, 1, 16, 16)
    whole = torch.from_numpy(found.images[:])
    np.testing.assert_allclose(small[:], resize(whole, 16).numpy(), atol=1e-5)
    cache = drawn_data[0].parent / "cache"
    (file,) = cache.glob("*.16.pixels")
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.stat().st_mtime_ns
    np.testing.assert_array_equal(found.images.at_size(16)[:], small[:])
    assert file.stat().st_mtime_ns == before
    trainer = LocalTrainer(
        TrainingSettings(architecture="resnet10-narrow", stages=(Stage(size=16, epochs=1, batch=18),)),
        images=found.images,
        labels=found.labels,
    )
    assert isinstance(trainer._at_size(16), LazyImages)
    smaller = description.model_copy(update={"input": description.input.model_copy(update={"height": 16})})
    prepared(drawn_data, smaller)
    assert list(cache.glob("*.16.pixels")) == []


def test_a_cut_or_strange_store_is_made_anew(
    drawn_data: tuple[Path, Path], description: Description, reads: list[Path]
) -> None:
    whole = prepared(drawn_data, description).images[:]
    cache = drawn_data[0].parent / "cache"
    (data,) = cache.glob("*.pixels")
    os.truncate(data, data.stat().st_size - 1)
    np.testing.assert_array_equal(prepared(drawn_data, description).images[:], whole)
    (index,) = cache.glob("*.json")
    index.write_text("[]")
    np.testing.assert_array_equal(prepared(drawn_data, description).images[:], whole)
    assert len(reads) == 3 * 36


def test_memory_does_not_grow_with_the_data(tmp_path: Path, description: Description) -> None:
    big = description.input.model_copy(update={"height": 256, "width": 256})
    picture = 256 * 256 * 4
    peaks = []
    for count in (2, 24):
        folder = tmp_path / str(count) / "plain"
        folder.mkdir(parents=True)
        for index in range(count):
            Image.fromarray(draw(0, np.random.default_rng(index))).save(folder / f"{index}.png")
        source = open_source(folder.parent, classes=CLASSES)
        tracemalloc.start()
        found = prepare(source, ["all"], big, cache=tmp_path / "cache")
        for index in range(count):
            found.images[index : index + 1]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] > picture  # the measure sees pictures
    assert peaks[1] < peaks[0] + 11 * picture  # of 22 more; other threads' memory counts, too


def test_a_missing_class_is_told_and_no_error(drawn_data: tuple[Path, Path], description: Description) -> None:
    manifest, folder = drawn_data
    manifest.write_text("\n".join(line for line in manifest.read_text().splitlines() if "striped" not in line))
    found = prepared((manifest, folder), description)
    assert found.class_counts == {"plain": 12, "bright": 12, "striped": 0}
    (line,) = found.warnings
    assert line.startswith("hospital north: no image of class 'striped'")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n cut off", None])
def test_an_unusable_file_is_named_or_left_out_with_a_count(
    drawn_data: tuple[Path, Path], description: Description, content: bytes | None
) -> None:
    bad = drawn_data[1] / "bright" / "train-4.png"
    bad.unlink()
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"hospital north: .*train-4\.png: ") as caught:
        prepared(drawn_data, description)
    assert "\n" not in str(caught.value)
    assert not any((drawn_data[0].parent / "cache").glob("*"))
    for _ in range(2):  # read, and found again
        found = prepared(drawn_data, description, skip_unusable=True)
        assert [one.path for one in found.skipped] == [bad]
        assert len(found.images) == len(found.labels) == 35
        assert bad not in [one.path for one in found.examples]
        assert "1 of 36 files were left out" in found.warnings[0]
        found.check_unchanged()
    expected = read_model_input(found.examples[4].path, description.input).tensor
    np.testing.assert_array_equal(found.images[4:5][0], expected)


def test_a_doubtful_picture_is_named(drawn_data: tuple[Path, Path], description: Description) -> None:
    Image.new("L", (32, 32), 7).save(drawn_data[1] / "plain" / "train-3.png")
    with pytest.raises(ConfigurationError, match=r"train-3\.png: every pixel of the image has the same value"):
        prepared(drawn_data, description)


def test_a_file_that_contradicts_itself_is_named_though_a_png_that_says_nothing_is_taken(
    drawn_data: tuple[Path, Path], description: Description
) -> None:
    contradiction = samples.data_set(samples.picture(), Modality="OT", PresentationLUTShape="INVERSE")
    (drawn_data[1] / "plain" / "train-3.png").write_bytes(samples.dicom_bytes(contradiction))
    with pytest.raises(ConfigurationError, match=r"train-3\.png: .* about whether the picture is a negative"):
        prepared(drawn_data, description)


def test_no_usable_file_at_all(drawn_data: tuple[Path, Path], description: Description) -> None:
    for path in drawn_data[1].rglob("train-*"):
        path.write_bytes(b"no picture")
    with pytest.raises(ConfigurationError, match="hospital north: none of 36 files"):
        prepared(drawn_data, description, skip_unusable=True)


def test_a_full_disk_is_told_before_anything_is_read(
    drawn_data: tuple[Path, Path], description: Description, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "MARGIN", 1 << 62)
    with pytest.raises(ConfigurationError, match="36 pictures take"):
        prepared(drawn_data, description)
    assert reads == []


def test_data_that_changes_while_training_is_named(drawn_data: tuple[Path, Path], description: Description) -> None:
    found = prepared(drawn_data, description)
    found.check_unchanged()
    path = found.examples[7].path
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    with pytest.raises(ConfigurationError, match=rf"hospital north: .*{path.name} was changed, added or removed"):
        found.check_unchanged()
    path.unlink()
    with pytest.raises(ConfigurationError, match=path.name):
        found.check_unchanged()


def test_an_image_that_is_added_to_a_folder_is_named(tmp_path: Path, description: Description) -> None:
    for index, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(draw(index, np.random.default_rng(index))).save(tmp_path / "images" / name / "a.png")
    source = open_source(tmp_path / "images", classes=CLASSES)
    found = prepare(source, ["all"], description.input, cache=tmp_path / "cache", hospital="south")
    (tmp_path / "images" / "plain" / ".DS_Store").write_text("litter")
    found.check_unchanged()
    Image.fromarray(draw(0, np.random.default_rng(9))).save(tmp_path / "images" / "plain" / "b.png")
    with pytest.raises(ConfigurationError, match=r"hospital south: .*b\.png was changed, added"):
        found.check_unchanged()


def test_a_row_that_is_taken_from_the_table_is_named(drawn_data: tuple[Path, Path], description: Description) -> None:
    found = prepared(drawn_data, description)
    manifest = drawn_data[0]
    manifest.write_text("\n".join(line for line in manifest.read_text().splitlines() if "train-5.png" not in line))
    with pytest.raises(ConfigurationError, match=r"train-5\.png was changed, added or removed"):
        found.check_unchanged()


def test_one_image_is_enough_to_be_prepared(tmp_path: Path, description: Description) -> None:
    (tmp_path / "images" / "bright").mkdir(parents=True)
    Image.fromarray(draw(1, np.random.default_rng(1))).save(tmp_path / "images" / "bright" / "a.png")
    found = prepare(
        open_source(tmp_path / "images", classes=CLASSES), ["all"], description.input, cache=tmp_path / "cache"
    )
    assert found.images.shape == (1, 1, 32, 32)
    assert len(found.warnings) == 2
