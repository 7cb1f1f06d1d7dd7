"""Variants of a shipped model that exist for measuring only: their answers mean nothing, their cost is real."""

import hashlib
from pathlib import Path

from contract.model_card import read_card

MAX_POOL = "resnet18-maxpool"


def write_with_max_pool(base: Path, folder: Path) -> Path:
    """Write `base` with the average pool of its stem turned into a max pool, as the usual ResNet-18 has; return it."""
    import onnx

    folder.mkdir()
    model = onnx.load(base / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "AveragePool":
            node.op_type = "MaxPool"
            kept = [one for one in node.attribute if one.name != "count_include_pad"]
            del node.attribute[:]
            node.attribute.extend(kept)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    card = read_card(base / "card.json").model_copy(
        update={
            "name": MAX_POOL,
            "intended_use": "Measuring only: the weights were trained for another pool, so answers mean nothing.",
            "metrics": (),
            "model_sha256": hashlib.sha256(content).hexdigest(),
        }
    )
    (folder / "card.json").write_text(card.model_dump_json(indent=2))
    return folder
