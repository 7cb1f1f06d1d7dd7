from pathlib import Path

import numpy as np
import pytest

from contract.errors import ConfigurationError
from federated_learning.data_source.examples import check_disjoint_patients, collect_labels, load
from federated_learning.data_source.folders import list_folders
from federated_learning.data_source.preparing import open_source
from federated_learning.data_source.table import read_table
from federated_learning.run_records import Description
from imaging.reading import read_model_input
from tests.federated_learning.conftest import CLASSES


def test_examples_of_roles_in_manifest_order(drawn_data: tuple[Path, Path]) -> None:
    manifest, folder = drawn_data
    source = read_table(manifest, folder=folder, classes=CLASSES)
    examples = source.examples("choose", "test")
    assert len(examples) == 36
    assert examples[4].path == folder / "bright" / "choose-4.png"
    assert collect_labels(examples)[:6].tolist() == [0, 1, 2, 0, 1, 2]


def test_images_are_what_serving_reads(drawn_data: tuple[Path, Path], description: Description) -> None:
    manifest, folder = drawn_data
    examples = read_table(manifest, folder=folder, classes=CLASSES).examples("test")
    images = load(examples, description.input)
    for image, example in zip(images, examples, strict=True):
        np.testing.assert_array_equal(image, read_model_input(example.path, description.input).tensor)


def test_copies_are_never_used(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,label,patient,role,duplicate_of\na.png,plain,p,train,\nb.png,plain,q,train,a.png\n")
    source = read_table(manifest, folder=tmp_path, classes=CLASSES)
    assert [example.path.name for example in source.examples("train")] == ["a.png"]


@pytest.mark.parametrize(
    "row",
    [
        "../a.png,plain,p,train",
        "a.png,unheard,p,train",
        "a.png,plain,,train",
        "a.png,plain,p,",
        "a.png",
        ",plain,p,train",
        "x.png,plain,p,train",
        "a.png,plain,p,train,more",
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, row: str) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"file,label,patient,role\nx.png,plain,p,train\n{row}\n")
    with pytest.raises(ConfigurationError, match="line 3"):
        read_table(manifest, folder=tmp_path, classes=CLASSES)


def test_paths_within_the_folder(tmp_path: Path) -> None:
    manifest = tmp_path / "table.csv"
    manifest.write_text("\ufeffpath,label\n2024/01/a.dcm,plain\nb.dcm,bright\n", encoding="utf-8")
    source = open_source(tmp_path / "images", classes=CLASSES, table=manifest)
    assert source.roles == ("all",)
    first, second = source.examples("all")
    assert first.path == tmp_path / "images" / "2024" / "01" / "a.dcm"
    assert (first.label, second.label) == (0, 1)
    assert first.patient != second.patient


@pytest.mark.parametrize("path", ["../a.dcm", "/etc/passwd", "b/../../a.dcm"])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    manifest = tmp_path / "table.csv"
    manifest.write_text(f"path,label\n{path},plain\n")
    with pytest.raises(ConfigurationError, match="line 2"):
        open_source(tmp_path, classes=CLASSES, table=manifest)


@pytest.mark.parametrize("text", ["", "file,label\n", "label,patient\nplain,p\n", "file\na.png\n"])
def test_tables_without_rows_or_columns_are_refused(tmp_path: Path, text: str) -> None:
    manifest = tmp_path / "table.csv"
    manifest.write_text(text)
    with pytest.raises(ConfigurationError, match=r"table\.csv"):
        read_table(manifest, folder=tmp_path, classes=CLASSES)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "striped/b.dcm", "plain/p7/study/1.dcm", "plain/p7/2.dcm", "bright/p7/3.dcm", "striped/a")
    touch(tmp_path, "SOURCE.txt", ".git/x", "plain/.DS_Store", "plain/Thumbs.db", "plain/p7/DICOMDIR")
    source = list_folders(tmp_path, classes=CLASSES)
    assert source.roles == ("all",)
    found = [(example.path.relative_to(tmp_path).as_posix(), example.label) for example in source.examples("all")]
    assert found == [
        ("plain/p7/2.dcm", 0),
        ("plain/p7/study/1.dcm", 0),
        ("bright/p7/3.dcm", 1),
        ("striped/a", 2),
        ("striped/b.dcm", 2),
    ]
    assert len({example.patient for example in source.examples("all")}) == 3


def test_role_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/plain/a.png", "train/bright/a.png", "test/plain/a.png")
    source = open_source(tmp_path, classes=CLASSES)
    assert source.roles == ("test", "train")
    assert len(source.examples("train")) == 2
    check_disjoint_patients(source.examples("train"), source.examples("test"))
    with pytest.raises(ConfigurationError, match="its roles are: test, train"):
        source.examples("validation")


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["plain/a.png", "unheard/b.png"], "unheard"),  # a class that the federation does not have
        (["train/plain/a.png", "train/unheard/b.png"], "unheard"),
        (["plain/a.png", "loose.png"], "loose.png"),  # would silently not be used
        (["PLAIN/a.png"], "lies outside the folder of a class"),
        (["plain/.hidden"], "holds no image"),
    ],
)
def test_folders_in_wrong_places_are_named(tmp_path: Path, files: list[str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        list_folders(touch(tmp_path, *files), classes=CLASSES)


def test_a_folder_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list_folders(tmp_path / "none", classes=CLASSES)


def test_unreadable_manifests(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_table(tmp_path / "none.csv", folder=tmp_path, classes=CLASSES)
    (tmp_path / "binary.csv").write_bytes(b"file,label\n\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_table(tmp_path / "binary.csv", folder=tmp_path, classes=CLASSES)


def test_unknown_role_names_the_known_ones(drawn_data: tuple[Path, Path]) -> None:
    manifest, folder = drawn_data
    with pytest.raises(ConfigurationError, match="choose, test, train"):
        read_table(manifest, folder=folder, classes=CLASSES).examples("dev_val")


def test_patients_in_two_splits_are_refused(drawn_data: tuple[Path, Path]) -> None:
    manifest, folder = drawn_data
    source = read_table(manifest, folder=folder, classes=CLASSES)
    check_disjoint_patients(source.examples("train"), source.examples("test"))
    with pytest.raises(ConfigurationError, match="split the manifest by patient"):
        check_disjoint_patients(source.examples("train", "test"), source.examples("test"))
