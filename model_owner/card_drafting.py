"""A card.json with everything that model.onnx tells; what only people know is marked for them to fill in."""

import json
import re
from pathlib import Path
from typing import Any

from contract.card_faults import FILL_IN, WHAT_TO_WRITE
from contract.errors import ConfigurationError, ModelFileError
from contract.files import new_file
from contract.model_card import Task
from model_owner.onnx_import.compiling import lower
from model_owner.onnx_import.ending import find_ending, list_fitting_tasks
from model_owner.onnx_import.reading import read_onnx

_NAME = re.compile(r"[^a-z0-9]+")
_LONGEST_NAME = 64


def draft_card(path: Path) -> dict[str, Any]:
    """The card of a model, as JSON data. Raises ModelFileError if the model could not be imported anyway."""
    model = read_onnx(path)
    lowered = lower(model)
    channels, height, width = lowered.network.input_shape
    if channels not in {1, 3}:
        raise ModelFileError(f"the model takes {channels} channels: only grey (1) and colour (3) images can be read")
    tasks = list_fitting_tasks(find_ending(model.graph), lowered.outputs)
    return {
        "name": _make_name(path) or _fill_in("name"),
        "version": "1.0.0",
        "title": _fill_in("title"),
        "intended_use": _fill_in("intended_use"),
        "task": str(tasks[0]) if len(tasks) == 1 else _fill_in("task"),
        "input": {
            "modalities": [_fill_in("input.modalities")],
            "channels": channels,
            "height": height,
            "width": width,
            "mean": [f"{FILL_IN}: a number, what training subtracted from pixels in [0, 1]"] * channels,
            "standard_deviation": [f"{FILL_IN}: a number, what training then divided by"] * channels,
        },
        "classes": _describe_classes(tasks, lowered.outputs),
        "training": _fill_in("training"),
        "model_sha256": model.sha256,
    }


def write_card(card: dict[str, Any], path: Path) -> None:
    """Write a new file. Raises ConfigurationError if there is one already, or none can be written."""
    try:
        with new_file(path, mode=None) as file:
            file.write((json.dumps(card, indent=2) + "\n").encode())
    except FileExistsError:
        raise ConfigurationError(f"{path} exists: remove it, or give another --output") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}): give another --output") from error


def list_unfilled_fields(card: dict[str, Any]) -> list[str]:
    """Fields, by their path, that people have to fill in."""
    fields = {key: value for key, value in card.items() if key != "input"}
    fields |= {f"input.{key}": value for key, value in card["input"].items()}
    return [name for name, value in fields.items() if FILL_IN in json.dumps(value)]


def _fill_in(field: str) -> str:
    return f"{FILL_IN}: {WHAT_TO_WRITE[field]}"


def _make_name(path: Path) -> str:
    """A name made of the file's; empty if that tells nothing."""
    name = _NAME.sub("-", path.stem.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return "" if name == "model" else name


def _describe_classes(tasks: tuple[Task, ...], outputs: int) -> list[str]:
    if tasks == (Task.BINARY,):
        return [f"{FILL_IN}: what holds without the finding", f"{FILL_IN}: the finding"]
    return [f"{FILL_IN}: what output {number} stands for" for number in range(1, outputs + 1)]
