"""From what a session opened to the results of its images."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.api import ModelEntry
from contract.errors import PeerViolation
from contract.model_card import ModelCard
from contract.ticket import Engine
from data_owner.diagnosis import Batch, Bytes, Diagnosis, Finding, HeatMapGrid, ModelName, Seconds, Warned
from data_owner.heat_map import write_heat_map
from imaging import ModelInput
from secure_computation.engines.interface import Answer, Label


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A file that was read and may be submitted."""

    path: Path
    image: ModelInput
    heat_map: Path | None = None
    """A new PNG file for the picture with the heat map over it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a session brought: the answers in the order of its submissions, and what it took."""

    answers: tuple[Answer, ...]
    heat_maps: tuple[NDArray[np.float64], ...] = field(repr=False)
    """(classes, rows, columns), of each image; empty where none are opened."""
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    stocked: bool
    warnings: tuple[Warned, ...]


def result_of(
    submission: Submission, entry: ModelEntry, engine: Engine, outcome: Outcome, index: int
) -> Diagnosis | PeerViolation:
    """Read the answer to one image of a session, number `index`; an error where it is none, which stops no other."""
    try:
        diagnosis = _diagnosis(submission, entry, engine, outcome, index)
        path = submission.heat_map
        return diagnosis if path is None else _with_heat_map_file(diagnosis, submission.image, path)
    except PeerViolation as error:
        return error


def _diagnosis(submission: Submission, entry: ModelEntry, engine: Engine, outcome: Outcome, index: int) -> Diagnosis:
    answer = outcome.answers[index]
    if not isinstance(answer, Label):
        logits = tuple(float(value) for value in answer)
        finding = Finding.from_logits(entry.card, logits)
    elif answer.index is None:
        # Only now, when the session has ended for everybody: see `Label`.
        raise PeerViolation(
            f"what was opened is no label: {entry.model_owner.organisation} or the crypto provider did not follow the "
            "protocol. There is no result; ask them before you submit the image again"
        )
    else:
        finding, logits = Finding.from_label(entry.card, answer.index), None
    return Diagnosis(
        file=str(submission.path),
        model=ModelName(name=entry.card.name, version=entry.card.version),
        engine=engine,
        diagnosis=finding,
        logits=logits,
        warnings=(*(Warned.from_image(warning) for warning in submission.image.warnings), *outcome.warnings),
        seconds=outcome.seconds,
        bytes=outcome.bytes,
        one_way_trips=outcome.one_way_trips,
        stocked=outcome.stocked,
        heat_map=_grids(entry.card, outcome.heat_maps[index]) if outcome.heat_maps else None,
        batch=Batch(images=len(outcome.answers), index=index),
    )


def _grids(card: ModelCard, heat_map: NDArray[np.float64]) -> dict[str, HeatMapGrid]:
    return {
        name: tuple(tuple(float(value) for value in row) for row in grid)
        for name, grid in zip(card.classes, heat_map, strict=True)
    }


def _with_heat_map_file(diagnosis: Diagnosis, image: ModelInput, path: Path) -> Diagnosis:
    """Draw the map of the decided class. Where that fails, the result is still the clinician's, with a warning."""
    if diagnosis.heat_map is None:
        raise PeerViolation("the model's plan opened no heat map, against its card; tell its owner")
    try:
        write_heat_map(path, image.picture, np.array(diagnosis.heat_map[diagnosis.diagnosis.label]))
    except OSError as error:
        text = f"the heat map was not written to {path} ({error.strerror}); the numbers are in the output of --json"
        return diagnosis.model_copy(update={"warnings": (*diagnosis.warnings, Warned(code="no-heat-map", text=text))})
    return diagnosis.model_copy(update={"heat_map_file": str(path)})
