"""Models that exist for measuring only: their answers mean nothing, their cost is real."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contract.model_card import Modality, ModelCard, Task, read_card

MAX_POOL = "resnet18-maxpool"


def variant(base: Path, folder: Path, *, model: str, side: int | None) -> Path:
    """The folder of the model to measure: `base` itself, or a variant of it written below `folder`."""
    if model == MAX_POOL:
        base = write_with_max_pool(base, folder / MAX_POOL)
    if side is not None and read_card(base / "card.json").input.height != side:
        base = write_resized(base, folder / "resized", side)
    return base


def write_with_max_pool(base: Path, folder: Path) -> Path:
    """Write `base` with the average pool of its stem turned into a max pool, as the usual ResNet-18 has; return it."""
    import onnx

    model = onnx.load(base / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "AveragePool":
            node.op_type = "MaxPool"
            kept = [one for one in node.attribute if one.name != "count_include_pad"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return _write(base, folder, model.SerializeToString(), {"name": MAX_POOL})


def write_resized(base: Path, folder: Path, side: int) -> Path:
    """Write `base` for inputs of side x side pixels; return it."""
    import onnx

    model = onnx.load(base / "model.onnx")
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[-2:]:
        dimension.dim_value = side
    del model.graph.value_info[:]  # shapes of the old size
    card = read_card(base / "card.json")
    resized = card.input.model_copy(update={"height": side, "width": side})
    return _write(base, folder, model.SerializeToString(), {"name": f"{card.name}-{side}", "input": resized})


def _write(base: Path, folder: Path, content: bytes, changes: dict[str, Any]) -> Path:
    use = "Measuring only: the weights were trained for another network, so answers mean nothing."
    card = dict(read_card(base / "card.json"))
    return _write_folder(folder, content, card | {"intended_use": use, "metrics": ()} | changes)


def write_random_model(
    folder: Path,
    content: bytes,
    *,
    name: str,
    title: str,
    shape: tuple[int, int, int],
    classes: Sequence[str],
    task: Task = Task.CLASSIFICATION,
) -> Path:
    """Write an ONNX file with random weights for images of this shape, and its card; return `folder`."""
    channels, height, width = shape
    card = {
        "name": name,
        "version": "1.0.0",
        "title": title,
        "intended_use": "Measuring only: the weights are random, so answers mean nothing.",
        "training": "none: random weights",
        "task": task,
        "input": {
            "modalities": tuple(Modality),
            "channels": channels,
            "height": height,
            "width": width,
            "mean": (0.5,) * channels,
            "standard_deviation": (0.25,) * channels,
        },
        "classes": tuple(classes),
    }
    return _write_folder(folder, content, card)


def _write_folder(folder: Path, content: bytes, card: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (folder / "card.json").write_text(ModelCard(**{**card, "model_sha256": digest}).model_dump_json(indent=2))
    return folder
