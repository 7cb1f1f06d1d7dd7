import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contract.model_card import InputSpecification, Modality
from federated_learning.run_records import Description

CLASSES = ("plain", "bright", "striped")
SIDE = 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(label: int, generator: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """A grey picture whose class can be seen: dark, bright, or striped."""
    image = generator.normal(70, 12, size=(SIDE, SIDE))
    if label == 1:
        image += 90
    elif label == 2:
        image[:, ::4] += 120
        image[:, 1::4] += 120
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def description() -> Description:
    return Description(
        name="tiny",
        version="0.1.0",
        title="Stripes",
        intended_use="tests",
        input=InputSpecification(
            modalities=(Modality.OTHER,), height=SIDE, width=SIDE, mean=(0.4,), standard_deviation=(0.2,)
        ),
        classes=CLASSES,
        data_set="drawn",
        training="Drawn pictures.",
        citations=(),
    )


@pytest.fixture
def drawn_data(tmp_path: Path) -> tuple[Path, Path]:
    """(manifest, folder): 36 images to train on, 18 to choose on and 18 to test on; two images for each patient."""
    folder, generator, rows = tmp_path / "images", np.random.default_rng(3), []
    for role, count in (("train", 36), ("choose", 18), ("test", 18)):
        for index in range(count):
            label = index % 3
            name = f"{role}-{index}.png"
            (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(label, generator)).save(folder / CLASSES[label] / name)
            rows.append(
                {"file": name, "label": CLASSES[label], "patient": f"{role}-{index // 6}-{label}", "role": role}
            )
    manifest = tmp_path / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "patient", "role"])
        writer.writeheader()
        writer.writerows(rows)
    return manifest, folder
