"""From what a session opened to the results of its images."""

from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from contract.api import ModelEntry
from contract.errors import PeerViolation
from contract.files import create
from contract.model_card import ModelCard
from contract.ticket import Engine
from data_owner.answers import NO_FINDING, FindingsAnswer, ModelAnswer, answer_from_label, answer_from_logits
from data_owner.calibration import judge_calibration
from data_owner.diagnosis import Batch, Bytes, Diagnosis, HeatMapGrid, ModelName, Seconds, Warned
from data_owner.submission import Submission
from imaging.reading import ModelInput
from plumbing.output import path_bytes, path_text, shown_path
from secure_computation.engines.interface import Answer, Label


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a session, and those that repeat a part of it, brought: answers in the order of submissions, and costs."""

    sessions: tuple[UUID, ...]
    """In which each image got its answer, as front end and model owner know them."""
    answers: tuple[Answer, ...]
    heat_maps: tuple[NDArray[np.float64], ...] = field(repr=False)
    """(classes, rows, columns), of each image; empty if none are opened."""
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    stocked: bool
    repeats: int
    """Sessions before the last, in which the item of an image was a decoy."""
    warnings: tuple[Warned, ...]


def read_result(
    submission: Submission, entry: ModelEntry, engine: Engine, outcome: Outcome, index: int
) -> Diagnosis | PeerViolation:
    """Read the answer to one image of a session, number `index`; an error if it is none, which stops no other."""
    try:
        diagnosis = _make_diagnosis(submission, entry, engine, outcome, index)
        path = submission.heat_map
        return diagnosis if path is None else _add_heat_map_file(diagnosis, submission.image, path)
    except PeerViolation as error:
        return error


def _make_diagnosis(
    submission: Submission, entry: ModelEntry, engine: Engine, outcome: Outcome, index: int
) -> Diagnosis:
    answer = outcome.answers[index]
    found: ModelAnswer
    if not isinstance(answer, Label):
        logits = tuple(float(value) for value in answer)
        found = answer_from_logits(entry.card, logits)
    elif answer.index is None:
        # Only now, when the session has ended for everybody: see `Label`.
        raise PeerViolation(
            f"what was opened is no label: {entry.model_owner.organisation} or the crypto provider did not follow the "
            "protocol. There is no result; ask them before you submit the image again"
        )
    else:
        found, logits = answer_from_label(entry.card, answer.index), None
    noticed = submission.image.warnings
    return Diagnosis(
        file=path_text(submission.path),
        file_bytes=path_bytes(submission.path),
        model=ModelName(name=entry.card.name, version=entry.card.version),
        engine=engine,
        diagnosis=found,
        calibration=None if logits is None else judge_calibration(entry.card, noticed),
        logits=logits,
        warnings=(*(Warned.from_submitted(warning) for warning in noticed), *outcome.warnings),
        seconds=outcome.seconds,
        bytes=outcome.bytes,
        one_way_trips=outcome.one_way_trips,
        stocked=outcome.stocked,
        repeats=outcome.repeats,
        heat_map=_make_grids(entry.card, outcome.heat_maps[index]) if outcome.heat_maps else None,
        batch=Batch(images=len(outcome.answers), index=index),
    )


def _make_grids(card: ModelCard, heat_map: NDArray[np.float64]) -> dict[str, HeatMapGrid]:
    return {
        name: tuple(tuple(float(value) for value in row) for row in grid)
        for name, grid in zip(card.classes, heat_map, strict=True)
    }


def _add_heat_map_file(diagnosis: Diagnosis, image: ModelInput, path: Path) -> Diagnosis:
    """Draw the maps of what was found. Where that fails, the result is still the clinician's, with a warning."""
    if diagnosis.heat_map is None:
        raise PeerViolation("the model's plan opened no heat map, against its card; tell its owner")
    grids = {name: np.array(diagnosis.heat_map[name]) for name in diagnosis.diagnosis.mapped}
    if not grids:
        return _warn_of_no_heat_map(diagnosis, f"no heat map was written, since there is {NO_FINDING}")
    from data_owner.heat_map import draw_heat_map, draw_heat_maps  # takes long to load, and few ask for it

    if isinstance(diagnosis.diagnosis, FindingsAnswer):
        drawn = draw_heat_maps(image.picture, grids)
    else:
        (grid,) = grids.values()
        drawn = draw_heat_map(image.picture, grid)
    try:
        create(path, drawn)
    except OSError as error:
        return _warn_of_no_heat_map(diagnosis, f"the heat map was not written to {shown_path(path)} ({error.strerror})")
    return diagnosis.model_copy(update={"heat_map_file": shown_path(path)})


def _warn_of_no_heat_map(diagnosis: Diagnosis, why: str) -> Diagnosis:
    warned = Warned(code="no-heat-map", text=f"{why}; the numbers are in the output of --json")
    return diagnosis.model_copy(update={"warnings": (*diagnosis.warnings, warned)})
