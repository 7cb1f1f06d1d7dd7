"""Whatever a coordinator orders, a hospital does nothing for it, and answers the next honest order."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import ConfigurationError, PeerViolation
from federated_learning.rounds.course import OpenedSum, Survey
from federated_learning.rounds.hospital_session import MAX_WORDS, HospitalSession
from federated_learning.rounds.letters import ERROR, Letter, Part, Step
from federated_learning.rounds.local_work import LocalWork
from federated_learning.rounds.round_orders import (
    ATTEMPT,
    ORDER,
    EvaluateOrder,
    RoundOrder,
    SurveyOrder,
    TrainOrder,
    read_order,
    write_order,
)
from tests.federated_learning.rounds.local import LocalTraining

HOSTILE: list[Any] = [
    2**40, 2**64, -1, 0, 10**4000, 1e-300, 1e300, float("nan"), float("inf"), True, None, "", "x" * 5000, "\x1b[2J\n",
    [], {}, [0] * 5000, [[]] * 50, {"x" * 5000: 1}, {str(one): 1.0 for one in range(5000)}, "a" * 64, [1e300],
]  # fmt: skip
TRIES = 2
KINDS: dict[Step, type[RoundOrder]] = {Step.SURVEY: SurveyOrder, Step.TRAIN: TrainOrder, Step.EVALUATE: EvaluateOrder}
OTHER = ("refused", "out-of-turn")


@dataclass(frozen=True)
class Site:
    """A hospital at which one step is due, and the honest order for it."""

    session: HospitalSession
    honest: Letter


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> LocalTraining:
    return LocalTraining(tmp_path_factory.mktemp("federation"), hospitals=3)


@pytest.fixture(scope="module")
def sites(federation: LocalTraining) -> dict[Step, Site]:
    counted = Survey(
        examples=36, validation=18, weight=48, class_counts=(12, 12, 12), mean=(0.4,), standard_deviation=(0.2,)
    )
    due: dict[Step, dict[str, Any]] = {
        Step.SURVEY: {},
        Step.TRAIN: {"survey": counted},
        Step.EVALUATE: {"survey": counted, "rounds": 1},
    }
    made = {}
    for name, (step, standing) in zip(federation.names, due.items(), strict=True):
        session = federation.exchange.sessions[name]
        session._course.standing = session._course.standing.model_copy(update=standing)
        question = session._course.ask(step)
        made[step] = Site(session, write_order(question.order, attempt=0, parts=question.parts))
    return made


def places(content: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a header."""
    if where:
        yield where
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*where, key))


def changed(header: Any, where: tuple[Any, ...], value: object) -> Any:
    made = copy.deepcopy(header)
    place = made
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return made


def same(one: Letter, other: Letter, kind: type[RoundOrder]) -> bool:
    """Whether both say the same in other words: 0 for 0.0, nothing for a default."""
    try:
        return read_order(one, kind) == read_order(other, kind)
    except PeerViolation:
        return False


def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins to work for an order has lost."""

    def work(*_given: object) -> None:
        raise AssertionError("a hostile order was worked for")

    for name in ("prepare", "train", "evaluate"):
        monkeypatch.setattr(LocalWork, name, work)


@pytest.mark.parametrize("step", KINDS)
def test_an_order_that_is_not_the_next_one_is_refused_at_once(
    federation: LocalTraining, sites: dict[Step, Site], step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place of the order in turn, with every hostile value in turn."""
    idle(monkeypatch)
    site, values = sites[step], cycle(HOSTILE)
    tried = 0
    for where, value in ((where, next(values)) for where in places(site.honest.header) for _ in range(TRIES)):
        header = changed(site.honest.header, where, value)
        if same(Letter(header=header), site.honest, KINDS[step]):
            continue
        said, tried = len(federation.said), tried + 1
        answer = site.session.answer(step, Letter(header=header, parts=site.honest.parts))
        assert not answer.parts
        assert answer.header[ERROR] in OTHER, (where, value, federation.said[said:])
        (words,) = federation.said[said:]
        assert words.isprintable()
        assert len(words) <= MAX_WORDS + 100
    assert tried > 30 * TRIES


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.FINISH])
@pytest.mark.parametrize(
    "parts", [{}, {"weights": bytes(3)}, {"x" * 100: bytes(5)}, {str(one): b"" for one in range(999)}]
)
def test_a_message_of_any_parts_leaves_the_hospital_there(
    sites: dict[Step, Site], step: Step, parts: dict[str, bytes]
) -> None:
    session = sites[Step.TRAIN].session
    for header in (
        {},
        {"position": 3, ATTEMPT: 0},
        {ORDER: {}, ATTEMPT: -1},
        {ORDER: [], ATTEMPT: 2**40},
        {"position": "x"},
    ):
        answer = session.answer(step, Letter(header=header, parts=parts))
        assert answer.header.get(ERROR) != "failed"
        assert step is Step.FOLLOW or answer.header[ERROR] in OTHER


def test_a_hospital_that_refused_answers_the_honest_order(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    question = federation.coordinator().course.ask(Step.SURVEY)
    honest = write_order(question.order, attempt=0, parts=question.parts)
    session = federation.exchange.sessions["hospital-a"]
    for where, value in ((("order", "training", "channels"), 2**40), (("order", "input", "height"), 2048)):
        assert (
            ERROR
            in session.answer(
                Step.SURVEY, Letter(header=changed(honest.header, where, value), parts=honest.parts)
            ).header
        )
    assert not list((tmp_path / "hospital-a" / "state").rglob("*.pixels"))
    assert set(session.answer(Step.SURVEY, honest).parts) == {Part.ADVERTISEMENT}


def test_a_fault_that_nobody_thought_of_is_an_answer(federation: LocalTraining, sites: dict[Step, Site]) -> None:
    site = sites[Step.SURVEY]
    faults = (RuntimeError("no memory"), MemoryError(), KeyError("smith.dcm"), RecursionError())
    for attempt, error in enumerate(faults):
        honest = Letter(header={**site.honest.header, ATTEMPT: attempt}, parts=site.honest.parts)

        def fault(*_given: object, error: Exception = error) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalWork, "prepare", fault)
            answer = site.session.answer(Step.SURVEY, honest)
        assert dict(answer.header) == {ERROR: "failed"}
        assert "by a fault in test_hostile_orders.py, line" in federation.said[-1]
        assert "smith" not in federation.said[-1]
        assert set(site.session.answer(Step.SURVEY, honest).parts) == {Part.ADVERTISEMENT}


@pytest.mark.parametrize(
    "change",
    [{"classes": np.array([2**57, 1, 1])}, {"classes": np.array([-5, 20, 20])}, {"weight": np.array(-8)},
     {"weight": np.array(2**50)}, {"validation": np.array(-3)}, {"pixel_total": np.array([2**50])},
     {"pixel_squares": np.array([-1])}, {"pixels": np.array([0])}],
    ids=str,
)  # fmt: skip
def test_counts_that_a_hospital_made_up_are_refused_before_anything_is_planned(
    federation: LocalTraining, change: dict[str, Any]
) -> None:
    course = federation.coordinator().course
    honest = {
        "classes": np.array([12, 12, 12]), "weight": np.array(48), "validation": np.array(18),
        "pixels": np.array([9216]), "pixel_total": np.array([2**24]), "pixel_squares": np.array([2**35 + 2**34]),
    }  # fmt: skip
    none = np.zeros(0, np.uint16)

    total = OpenedSum(update=none, exact=honest | change, survivors=frozenset(federation.names))
    with pytest.raises(ConfigurationError):
        course.follow(total)
    course.follow(replace(total, exact=honest))
    assert course.standing.survey is not None
    assert course.standing.survey.examples == 36
