from pathlib import Path

import numpy as np
import pytest

from contract.errors import ConfigurationError
from federated_learning.data_source import ManifestSource, check_disjoint_patients, labels_of, load
from federated_learning.records import Description
from imaging.reading import read_model_input
from tests.federated_learning.conftest import CLASSES


def test_examples_of_roles_in_manifest_order(drawn_data: tuple[Path, Path]) -> None:
    manifest, folder = drawn_data
    source = ManifestSource(manifest=manifest, folder=folder, classes=CLASSES)
    examples = source.examples("choose", "test")
    assert len(examples) == 36
    assert examples[4].path == folder / "bright" / "choose-4.png"
    assert labels_of(examples)[:6].tolist() == [0, 1, 2, 0, 1, 2]


def test_images_are_what_serving_reads(drawn_data: tuple[Path, Path], description: Description, tmp_path: Path) -> None:
    manifest, folder = drawn_data
    examples = ManifestSource(manifest=manifest, folder=folder, classes=CLASSES).examples("test")
    images = load(examples, description.input)
    for image, example in zip(images, examples, strict=True):
        np.testing.assert_array_equal(image, read_model_input(example.path, description.input).tensor)
    np.testing.assert_array_equal(load(examples, description.input, cache=tmp_path / "images.npy"), images)


def test_copies_are_never_used(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,label,patient,role,duplicate_of\na.png,plain,p,train,\nb.png,plain,q,train,a.png\n")
    source = ManifestSource(manifest=manifest, folder=tmp_path, classes=CLASSES)
    assert [example.path.name for example in source.examples("train")] == ["a.png"]


@pytest.mark.parametrize(
    "row", ["../a.png,plain,p,train", "a.png,unheard,p,train", "a.png,plain,,train", "a.png,plain,p,", "a.png"]
)
def test_bad_rows_are_named_by_line(tmp_path: Path, row: str) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"file,label,patient,role\nx.png,plain,p,train\n{row}\n")
    with pytest.raises(ConfigurationError, match="line 3"):
        ManifestSource(manifest=manifest, folder=tmp_path, classes=CLASSES)


def test_unreadable_manifests(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ManifestSource(manifest=tmp_path / "none.csv", folder=tmp_path, classes=CLASSES)
    (tmp_path / "binary.csv").write_bytes(b"file,label\n\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        ManifestSource(manifest=tmp_path / "binary.csv", folder=tmp_path, classes=CLASSES)


def test_unknown_role_names_the_known_ones(drawn_data: tuple[Path, Path]) -> None:
    manifest, folder = drawn_data
    with pytest.raises(ConfigurationError, match="choose, test, train"):
        ManifestSource(manifest=manifest, folder=folder, classes=CLASSES).examples("dev_val")


def test_patients_in_two_splits_are_refused(drawn_data: tuple[Path, Path]) -> None:
    manifest, folder = drawn_data
    source = ManifestSource(manifest=manifest, folder=folder, classes=CLASSES)
    check_disjoint_patients(source.examples("train"), source.examples("test"))
    with pytest.raises(ConfigurationError, match="split the manifest by patient"):
        check_disjoint_patients(source.examples("train", "test"), source.examples("test"))
