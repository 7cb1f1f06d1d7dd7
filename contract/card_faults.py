"""Everything that is wrong with a card.json, at once: each fault with its field, what is wrong and what to write.

A card that a program drafted has words that begin with FILL_IN where only a person knows what belongs there; each is a
fault until it is replaced.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from contract.fault_words import describe_fault

FILL_IN: Final = "FILL IN"
MOST_FAULTS: Final = 30
"""That are described in one message."""
_MOST_LOOKED_AT: Final = 1000
"""Faults of one file: more say nothing new, and each is compared with the others."""
_LONGEST: Final = 200

WHAT_TO_WRITE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "name": 'a name of lower-case letters, digits and hyphens, say "chest-pneumonia"',
        "version": 'three numbers, say "1.0.0"',
        "title": "a few words that a clinician reads above each answer",
        "intended_use": "for whom and for what the model is, and for what it is not",
        "task": '"classification" if exactly one of the classes holds, "multi-label" if each class is a finding of its '
        'own, "binary" if the model ends in one number',
        "input": 'an object with "modalities", "channels", "height", "width", "mean" and "standard_deviation"',
        "input.modalities": 'DICOM modalities that the model was trained on, say ["CR", "DX"]; "OT" for others',
        "input.body_parts": 'values of DICOM BodyPartExamined, say ["CHEST"], or [] for any',
        "input.views": 'projections that the model was made for, say ["AP", "PA"], or [] for any',
        "input.ages": 'completed years, say {"youngest": 1, "oldest": 5}, or leave it out for any',
        "input.channels": "1 for grey, 3 for colour, as the model takes",
        "input.height": "the pixels that the model takes",
        "input.width": "the pixels that the model takes",
        "input.mean": "what training subtracted from pixels in [0, 1], one number for each channel, say [0.5]",
        "input.standard_deviation": "what training then divided by, one number for each channel, say [0.25]",
        "classes": "one name for each output, in the model's order, each once",
        "thresholds": "for a multi-label model, a probability between 0 and 1 by class",
        "calibration_temperature": "a number above 0 that was measured on validation data, or leave it out",
        "uncertain_below": "a probability between 0 and 1, or leave it out",
        "output_policy": '"logits", "label-only" or "logits-and-heat-map"',
        "arithmetic": '"exact" or "dithered"',
        "references": "nothing: an import with --references fills it in",
        "training": "where the model comes from: data, split and method",
        "model_sha256": "the hash that `model-owner card --from model.onnx` writes",
    }
)
"""By field, dots between levels."""

_HARMLESS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **dict.fromkeys(("name", "title", "intended_use", "training"), "x"),
        "version": "1.0.0",
        "input": {"modalities": ["OT"], "height": 8, "width": 8, "mean": [0], "standard_deviation": [1]},
        "classes": ["x", "y"],
        "model_sha256": "0" * 64,
    }
)
"""Stands for what is wrong while the rest is held together."""

Location = tuple[int | str, ...]


def find_card_faults(data: bytes, kind: type[BaseModel]) -> list[str]:
    """One line for each fault of a card, whose fields are those of `kind`; none if it may be used."""
    try:
        raw = from_json(data)
    except ValueError as error:
        return [f"the file is not JSON ({error}): correct that first"]
    if not isinstance(raw, dict):
        return ["the file holds no JSON object: begin it with { and end it with }"]
    if twice := _find_repeated(data):
        return [_format_fault((name,), "is written more than once", "it once") for name in twice[:MOST_FAULTS]]
    unfilled = list(islice(_find_unfilled(raw, ()), _MOST_LOOKED_AT))
    fields = dict.fromkeys(tuple(part for part in place if isinstance(part, str)) for place in unfilled)
    faults = [_format_fault(field, "is still to be filled in", _find_advice(field)) for field in fields]
    found = [one for one in _find_errors(raw, kind) if not any(_overlap(one["loc"], place) for place in unfilled)]
    inside = {one["loc"][:-1] for one in found}
    faults += [_describe_error(one, kind) for one in found if one["type"] != "too_short" or one["loc"] not in inside]
    wrong = {str(place[0]) for place in (*unfilled, *(one["loc"] for one in found)) if place}
    faults += [described for described in _find_misfits(raw, wrong, kind) if described not in faults]
    return list(dict.fromkeys(faults))


def _find_repeated(data: bytes) -> list[str]:
    """Names of fields that stand more than once in one object: JSON would let the last one count in silence."""
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    json.loads(data, object_pairs_hook=collect)
    return twice


def list_faults(faults: list[str]) -> str:
    """Faults as one line."""
    if len(faults) == 1:
        return faults[0]
    shown = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults[:MOST_FAULTS], start=1))
    left_out = len(faults) - MOST_FAULTS
    return f"{len(faults)} things to correct: {shown}" + (f"; and {left_out} more" if left_out > 0 else "")


def _find_unfilled(value: Any, location: Location) -> Iterator[Location]:
    if isinstance(value, str) and value.strip().upper().startswith(FILL_IN):
        yield location
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _find_unfilled(inner, (*location, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _find_unfilled(inner, (*location, index))


def _find_errors(raw: dict[str, Any], kind: type[BaseModel]) -> list[ErrorDetails]:
    try:
        kind.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        return error.errors(include_url=False, include_input=False)[:_MOST_LOOKED_AT]
    return []


def _find_misfits(raw: dict[str, Any], wrong: set[str], kind: type[BaseModel]) -> list[str]:
    """What does not fit together among the fields that are right: they are checked once more, beside harmless ones."""
    if not wrong:
        return []
    right = {key: value for key, value in raw.items() if key not in wrong}
    described = [_describe_error(one, kind) for one in _find_errors(dict(_HARMLESS) | right, kind) if not one["loc"]]
    parts = [part for words in described for part in words.split("; ")]
    return [part for part in parts if not any(field in part for field in wrong)]


def _overlap(first: Location, second: Location) -> bool:
    """Whether one lies in the other."""
    shorter = min(len(first), len(second))
    return shorter > 0 and first[:shorter] == second[:shorter]


def _describe_error(error: ErrorDetails, kind: type[BaseModel]) -> str:
    location, context = error["loc"], error.get("ctx", {})
    words = describe_fault(error)
    write = _find_advice(location)
    match error["type"]:
        case "extra_forbidden":
            write = _suggest_field(location, kind)
        case "value_error" | "assertion_error":
            write = None
        case "enum" | "literal_error":
            words, write = "is none of the values that it may have", f"one of {context.get('expected', '')}"
        case "too_long" | "string_too_long":
            write = None
        case _:
            pass
    return _format_fault(location, words, write)


def _format_fault(location: Location, words: str, write: str | None) -> str:
    """`input.mean: is missing; write ...`. Entries of a list are counted from 1."""
    shown = ""
    for part in location:
        shown += f", entry {part + 1}" if isinstance(part, int) else f".{part}" if shown else part
    text = f"{shown[:_LONGEST]}: {words}" if shown else words
    text = "".join(character if character.isprintable() else "?" for character in text)
    return (text if write is None else f"{text}; write {write}")[: 2 * _LONGEST]


def _find_advice(location: Location) -> str | None:
    """What belongs into the field, or into the list that the entry stands in."""
    return WHAT_TO_WRITE.get(".".join(part for part in location if isinstance(part, str)))


def _suggest_field(location: Location, kind: type[BaseModel]) -> str:
    """The field that was probably meant, of the same level."""
    fields: list[str] = list(kind.model_fields)
    for part in location[:-1]:
        annotation = kind.model_fields[part].annotation if isinstance(part, str) and part in kind.model_fields else None
        fields = (
            list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
        )
    near = difflib.get_close_matches(str(location[-1])[:_LONGEST], fields, n=1)
    return f'"{near[0]}" if that was meant, or remove it' if near else f"one of {', '.join(fields)}, or remove it"
