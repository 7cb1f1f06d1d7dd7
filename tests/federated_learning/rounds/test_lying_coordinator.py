"""A coordinator that lies for one hospital's update, by two sums that differ by that hospital or by chosen weights."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import AggregationAborted, ConfigurationError
from federated_learning.rounds.aggregating import Aggregator, RoundCosts, Sum, _Attempt
from federated_learning.rounds.course import Course
from federated_learning.rounds.letters import ERROR, Letter, Part, Step
from federated_learning.rounds.participants import Participants
from federated_learning.rounds.round_orders import ATTEMPT, ORDER, WEIGHTS, Question, write_order
from tests.federated_learning.rounds.local import WAITING, LocalTraining

REST = ("hospital-a", "hospital-b", "hospital-c")


class Liar:
    """Asks hospitals what it likes, opens every sum that they let it open, and tells them of sums what it likes."""

    def __init__(self, hospitals: LocalTraining, federation: Participants | None = None, run: str = "test") -> None:
        self.hospitals, self.participants = hospitals, federation or hospitals.participants
        self.course = Course(hospitals.settings().model_copy(update={"run": run}), self.participants)
        self.attempts = 0

    def opens(self, question: Question[Any], *names: str) -> Sum:
        """The sum over these hospitals. Raises AggregationAborted where they do not let it."""
        self.attempts += 1
        folder = self.hospitals.folder / f"attempt-{self.attempts}"
        aggregator = Aggregator(
            self.participants, self.hospitals.exchange, waiting=WAITING, attempts=1, folder=folder,
            show=self.hospitals.events.append,
        )  # fmt: skip
        folder.mkdir()
        attempt = _Attempt(aggregator, question, number=self.attempts, restarts=0, costs=RoundCosts())
        return attempt.add_securely(frozenset(names))

    def tells(self, name: str, total: Sum, parts: Mapping[str, bytes]) -> Letter:
        """What the hospital answers to such an opening of the sum that it lacks."""
        header = {Part.POSITION: self.hospitals.exchange.sessions[name]._course.position, ATTEMPT: total.attempt}
        return self.hospitals.exchange.sessions[name].answer(Step.FOLLOW, Letter(header=header, parts=parts))

    def is_followed(self, total: Sum) -> None:
        """Everybody goes on by a sum that is true."""
        parts = {**total.opening, **self.course.ask(self.course.next_step).parts}
        self.course.follow(total)
        for name in self.participants.names:
            assert ERROR not in self.tells(name, total, parts).header

    def unmasked(self) -> int:
        """How many hospitals gave shares away."""
        return sum(Part.UNMASKING in letter.parts for _, _, letter in self.hospitals.exchange.view)


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalTraining, Sum]:
    """Four hospitals, from which the coordinator has the survey, and which have followed it."""
    torch.set_num_threads(1)
    hospitals = LocalTraining(tmp_path_factory.mktemp("federation"), hospitals=4)
    liar = Liar(hospitals)
    counted = liar.opens(liar.course.ask(Step.SURVEY), *hospitals.names)
    liar.is_followed(counted)
    return hospitals, counted


@pytest.fixture
def liar(surveyed: tuple[LocalTraining, Sum]) -> Iterator[Liar]:
    """A coordinator after the survey; hospitals and their folders are as they were then when it is done."""
    hospitals, counted = surveyed
    kept = hospitals.folder.with_name("kept")
    shutil.copytree(hospitals.folder, kept)
    hospitals.exchange.sessions = {name: hospitals.session(name) for name in hospitals.names}
    hospitals.exchange.view.clear()
    made = Liar(hospitals)
    made.attempts = 1
    made.course.follow(counted)
    yield made
    shutil.rmtree(hospitals.folder)
    kept.rename(hospitals.folder)


def refuses(liar: Liar, question: Question[Any], *names: str) -> None:
    before = liar.unmasked()
    with pytest.raises((AggregationAborted, ConfigurationError)):
        liar.opens(question, *names)
    assert liar.unmasked() == before


# --- the same question twice -----------------------------------------------------------------------------------------


def test_no_second_sum_of_the_same_updates_without_a_hospital(liar: Liar) -> None:
    """The difference of the two would be the missing hospital's update, bit for bit."""
    question = liar.course.ask(Step.TRAIN)
    liar.opens(question, *liar.hospitals.names)
    refuses(liar, question, *REST)
    assert "for other hospitals than those" in liar.hospitals.said[-1]
    # Nor after all of them have started anew: it is on their disks before the first share leaves.
    liar.hospitals.exchange.sessions = {name: liar.hospitals.session(name) for name in liar.hospitals.names}
    refuses(liar, question, *REST)
    again = liar.opens(question, *liar.hospitals.names)  # the same sum once more, say as the first one was lost
    assert again.survivors == frozenset(liar.hospitals.names)


def test_no_second_evaluation_and_no_survey_without_a_hospital(liar: Liar) -> None:
    refuses(liar, Liar(liar.hospitals).course.ask(Step.SURVEY), *liar.hospitals.names)
    liar.is_followed(liar.opens(liar.course.ask(Step.TRAIN), *liar.hospitals.names))
    refuses(liar, liar.course.ask(Step.EVALUATE), *REST)


def test_no_second_count_in_another_run_of_other_hospitals(liar: Liar) -> None:
    """The people of the three agreed to a run without the fourth: their counts are in a sum with it already."""
    hospitals = liar.hospitals
    three = hospitals.participants.model_copy(update={"hospitals": hospitals.participants.hospitals[:3]})
    other = Liar(hospitals, three, run="another")
    other.attempts = 100
    for name in REST:
        settings = hospitals.hospital_settings(name).model_copy(update={"run": "another"})
        hospitals.exchange.sessions[name] = hospitals.session(name, settings, three)
    refuses(other, other.course.ask(Step.SURVEY), *REST)
    assert "for other hospitals than those" in hospitals.said[-1]


def test_a_hospital_whose_images_changed_is_not_in_a_second_sum_of_the_same_updates(liar: Liar) -> None:
    """The others' updates repeat bit for bit, so the difference would be what the images make of this one's."""
    hospitals, question = liar.hospitals, liar.course.ask(Step.TRAIN)
    liar.opens(question, *hospitals.names)
    table = hospitals.tables["hospital-d"]
    table.write_text("".join(line for index, line in enumerate(table.read_text().splitlines(True)) if index != 2))
    (hospitals.folder / "hospital-d" / "state" / "test" / "training.npz").unlink()
    hospitals.exchange.sessions["hospital-d"] = hospitals.session("hospital-d")
    refuses(liar, question, *hospitals.names)
    assert any("had another answer to the same question before" in line for line in hospitals.said)


def test_images_are_counted_once_in_a_run_also_where_some_were_added(liar: Liar) -> None:
    """A coordinator that keeps the sum to itself asks again, every day say, for what one hospital added since."""
    hospitals = liar.hospitals
    for name in hospitals.names:
        (hospitals.folder / name / "state" / "test" / "course.npz").unlink()  # they did not hear of the first sum
    table = hospitals.tables["hospital-d"]
    table.write_text("".join(line for index, line in enumerate(table.read_text().splitlines(True)) if index != 2))
    hospitals.exchange.sessions = {name: hospitals.session(name) for name in hospitals.names}
    question = Liar(hospitals).course.ask(Step.SURVEY)
    refuses(liar, question, *hospitals.names)
    assert any("had another answer to the same question before" in line for line in hospitals.said)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield path
    else:
        for key, item in pairs:
            yield from leaves(item, (*path, key))


def changed(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(0, value - 1) or value + 2]
    if isinstance(value, float):
        return [np.nextafter(value, 1e9), -value or 0.5]
    if isinstance(value, str):
        return ["f" * len(value), f"{value}x"]
    return [3]


@pytest.mark.parametrize("step", [Step.TRAIN, Step.EVALUATE])
def test_nothing_in_an_order_can_be_chosen(liar: Liar, step: Step) -> None:
    """Augmentation, batch, rates, threshold, classes, input, limits, weights, the round: each value, one at a time."""
    if step is Step.EVALUATE:
        liar.is_followed(liar.opens(liar.course.ask(Step.TRAIN), *liar.hospitals.names))
    session, question = liar.hospitals.exchange.sessions["hospital-a"], liar.course.ask(step)
    honest = question.order.model_dump(mode="json")
    paths = list(leaves(honest))
    assert len(paths) > 50
    for path in paths:
        *where, last = path
        held = honest
        for key in where:
            held = held[key]
        for value in changed(held[last]):
            order = json.loads(json.dumps(honest))
            target = order
            for key in where:
                target = target[key]
            target[last] = value
            answer = session.answer(step, Letter(header={ORDER: order, ATTEMPT: 50}))
            assert ERROR in answer.header, path
            assert not answer.parts
    assert ERROR not in session.answer(step, write_order(question.order, attempt=51, parts={})).header


# --- weights of its choice -------------------------------------------------------------------------------------------


def test_weights_that_are_sent_along_are_not_used(liar: Liar) -> None:
    honest = liar.opens(liar.course.ask(Step.TRAIN), *liar.hospitals.names)
    liar.is_followed(honest)
    question = liar.course.ask(Step.EVALUATE)
    expected = liar.opens(question, *liar.hospitals.names).exact["loss"]
    zeros = bytes(4 * sum(value.size for value in liar.course.weights.values()))
    sent = Question(
        step=question.step, order=question.order, layout=question.layout, subject=question.subject,
        parts={WEIGHTS: zeros},
    )  # fmt: skip
    refuses(liar, sent, *liar.hospitals.names)  # what is beside an order is in its session: the answers do not fit
    assert liar.opens(question, *liar.hospitals.names).exact["loss"] == expected


def test_no_hospital_follows_a_sum_that_was_made_up(liar: Liar) -> None:
    """A sum of nearly nothing would leave the weights as they are, for the same updates in the next round."""
    names = liar.hospitals.names
    total = liar.opens(liar.course.ask(Step.TRAIN), *names)
    parts = dict(total.opening)
    masked = bytearray(parts["masked/hospital-d"])
    masked[60] ^= 1
    without = {name: part for name, part in parts.items() if not name.endswith("hospital-d")}
    for told in (
        parts | {"masked/hospital-d": bytes(masked)},
        parts | {"secret/hospital-d": bytes(32)},
        without,
        {},
        {Part.UPDATE: bytes(8 * total.update.size), "exact": b"", "in-sum": b"[]"},
    ):
        assert ERROR in liar.tells("hospital-a", total, told).header
    standing = liar.hospitals.exchange.sessions["hospital-a"]._course
    assert standing.position == 1
    assert ERROR not in liar.tells("hospital-a", total, parts).header
    assert standing.position == 2


def test_a_sum_is_followed_in_its_own_place_only(liar: Liar) -> None:
    """A sum of another question, or one once more, moves nothing."""
    names = liar.hospitals.names
    first = liar.opens(liar.course.ask(Step.TRAIN), *names)
    liar.is_followed(first)
    judged = liar.opens(liar.course.ask(Step.EVALUATE), *names)
    course = liar.hospitals.exchange.sessions["hospital-a"]._course
    before = course.standing
    assert ERROR in liar.tells("hospital-a", first, first.opening).header
    assert ERROR in liar.tells("hospital-a", judged, judged.opening).header
    assert course.standing == before


def test_initial_weights_of_its_choice_are_refused_and_those_of_another_machine_are_not(tmp_path: Path) -> None:
    hospitals = LocalTraining(tmp_path, hospitals=3)
    question = Liar(hospitals).course.ask(Step.SURVEY)
    honest, chosen = question.parts[WEIGHTS], []
    for change in (0.01, float("nan"), float("inf")):
        weights = np.frombuffer(honest, "<f4").copy()
        weights[1000] += change
        chosen.append(weights.tobytes())
    session = hospitals.exchange.sessions["hospital-a"]
    for content in (*chosen, honest[:-4], b""):
        letter = write_order(question.order, attempt=0, parts={WEIGHTS: content})
        assert ERROR in session.answer(Step.SURVEY, letter).header
    steps = [(np.frombuffer(honest, "<f4") * (1 + step * 5e-5)).astype("<f4").tobytes() for step in range(1, 9)]
    letters = [write_order(question.order, attempt=9 + at, parts={WEIGHTS: step}) for at, step in enumerate(steps)]
    told = [ERROR in session.answer(Step.SURVEY, letter).header for letter in letters]
    assert told[0] is False
    assert told[-1] is True  # as far in many small steps as in one
    shutil.rmtree(hospitals.folder / "hospital-a" / "state")
    session = hospitals.exchange.sessions["hospital-a"] = hospitals.session("hospital-a")
    for name, drawn in session._course._drawn.items():  # another processor draws them with other last bits
        session._course._drawn[name] = drawn * np.float32(1 + 1e-6)
    hospitals.coordinator().run()
    assert [report.survivors for report in hospitals.reports] == [hospitals.names] * 2


def test_networks_of_one_seed_are_one_question(tmp_path: Path) -> None:
    """A second run with another class has the same initial weights but for the last layer: no other hospitals in it."""
    hospitals = LocalTraining(tmp_path, hospitals=3)
    settings = hospitals.settings()
    description = settings.description.model_copy(update={"classes": (*settings.description.classes, "fourth")})
    training = settings.training.model_copy(update={"classes": 4})
    more = settings.model_copy(update={"description": description, "training": training})
    first, second = Course(settings, hospitals.participants), Course(more, hospitals.participants)
    shared = [name for name, value in first.weights.items() if np.array_equal(value, second.weights[name])]
    assert len(shared) > len(first.weights) / 2
    assert first.standing.subject == second.standing.subject
