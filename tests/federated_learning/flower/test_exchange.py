"""Asking over Flower's Grid: hospitals that go away, come back, stay silent, or answer twice."""

import time
from collections.abc import Iterable
from typing import Any, cast

import httpx
import pytest
from flwr.app import Error, Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.task_identity import TaskIdentity

from contract.errors import PeerDisconnected
from federated_learning.flower.exchange import GridExchange
from federated_learning.flower.records import to_records
from federated_learning.rounds.letters import ERROR, Letter, Step, Trouble
from federated_learning.rounds.settings import Waiting

NODES = {11: "north", 12: "south"}


class Grid:
    """As much of Flower's Grid as is used; what a test scripts happens when the coordinator looks."""

    def __init__(self) -> None:
        self.online = set(NODES)
        self.sent: list[Message] = []
        self.replies: list[Message] = []
        self.looks = 0
        self.script: Any = lambda _grid: None

    def get_node_ids(self) -> Iterable[int]:
        return list(self.online)

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        identities: list[str | None] = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message-{len(self.sent)}"
            self.sent.append(message)
            identities.append(message.metadata.message_id)
        return identities

    def pull_messages(self, identities: Iterable[str]) -> list[Message]:
        self.looks += 1
        self.script(self)
        wanted = set(identities)
        found = [reply for reply in self.replies if reply.metadata.reply_to_message_id in wanted]
        self.replies = [reply for reply in self.replies if reply not in found]
        return found

    def reply(self, index: int, letter: Letter) -> None:
        self.replies.append(Message(to_records(letter), reply_to=self.sent[index]))


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Grid:
    for name, value in (("run_id", 1), ("node_id", 1), ("task_id", 1)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", value, raising=False)
    monkeypatch.setattr("federated_learning.flower.exchange.LOOK_SECONDS", 0.0)
    return Grid()


def exchange(grid: Grid, **waiting: float) -> GridExchange:
    return GridExchange(cast("Any", grid), NODES, waiting=Waiting(**waiting), max_bytes=1000)


def letters(*names: str) -> dict[str, Letter]:
    return {name: Letter(parts={"question": name.encode()}) for name in names}


def ask(grid: Grid, *, seconds: float = 30.0, **waiting: float) -> Any:
    return exchange(grid, **waiting).ask(
        Step.SHARES, letters("north", "south"), seconds=seconds, answered=lambda _name: None
    )


def test_each_hospital_gets_its_letter_and_its_answer_counts(grid: Grid) -> None:
    def script(grid: Grid) -> None:
        if grid.looks == 1:
            grid.reply(0, Letter(parts={"answer": b"1"}))
            grid.reply(1, Letter(parts={"answer": b"2"}))

    grid.script = script
    answers = ask(grid)
    assert [message.metadata.dst_node_id for message in grid.sent] == [11, 12]
    assert {name: dict(letter.parts) for name, letter in answers.letters.items()} == {
        "north": {"answer": b"1"},
        "south": {"answer": b"2"},
    }
    assert answers.failures == {}


@pytest.mark.parametrize("fault", [KeyError("ConfigRecord"), ValueError("body"), RecursionError()], ids=repr)
def test_an_answer_that_flower_cannot_read_fails_alone(grid: Grid, fault: Exception) -> None:
    def script(grid: Grid) -> None:
        if grid.looks == 1:
            grid.reply(1, Letter(parts={"answer": b"2"}))
            raise fault

    grid.script = script
    answers = ask(grid)
    assert set(answers.letters) == {"south"}
    assert answers.failures == {"north": "sent what is no message: run the same version on both sides"}


def test_one_that_comes_back_is_asked_again(grid: Grid) -> None:
    def script(grid: Grid) -> None:
        grid.reply(0, Letter(parts={"answer": b"1"})) if grid.looks == 1 else None
        if grid.looks == 3:
            grid.online = {11}
        if grid.looks == 5:
            grid.online = {11, 12}
        if len(grid.sent) == 3 and not grid.replies:
            grid.reply(2, Letter(parts={"answer": b"2"}))

    grid.script = script
    answers = ask(grid)
    assert set(answers.letters) == {"north", "south"}
    assert [message.metadata.dst_node_id for message in grid.sent] == [11, 12, 12]


def test_one_that_stays_away_is_given_up_before_the_deadline(grid: Grid) -> None:
    grid.online = {11}
    grid.script = lambda grid: grid.reply(0, Letter()) if grid.looks == 1 else None
    started = time.monotonic()
    answers = ask(grid, seconds=60.0, offline=0.1)
    assert time.monotonic() - started < 30
    assert answers.failures == {"south": "went away"}
    assert answers.refused == set()


def test_one_that_is_silent_is_asked_again_and_then_given_up(grid: Grid) -> None:
    grid.script = lambda grid: grid.reply(0, Letter()) if grid.looks == 1 else None
    answers = ask(grid, seconds=0.6, repeat=0.1)
    assert "no answer" in answers.failures["south"]
    assert len(grid.sent) >= 3


def test_an_error_of_flower_is_no_answer(grid: Grid) -> None:
    def script(grid: Grid) -> None:
        if grid.looks == 1:
            grid.reply(0, Letter())
            grid.replies.append(Message(Error(code=1, reason="node unavailable"), reply_to=grid.sent[1]))
        if len(grid.sent) == 3 and grid.looks > 2 and not grid.replies:
            grid.reply(2, Letter())

    grid.script = script
    assert set(ask(grid).letters) == {"north", "south"}


def test_refusals_and_wrong_forms_are_told_apart_from_silence(grid: Grid) -> None:
    def script(grid: Grid) -> None:
        if grid.looks == 1:
            grid.reply(0, Letter(header={ERROR: "refused"}))
            grid.reply(1, Letter(parts={"answer": bytes(2000)}))

    grid.script = script
    answers = ask(grid)
    assert answers.refused == {"north"}
    assert answers.failures["north"] == str(Trouble.REFUSED)
    assert "longer than the 1000 bytes" in answers.failures["south"]


def test_words_of_a_hospital_are_shown_nowhere(grid: Grid) -> None:
    def script(grid: Grid) -> None:
        if grid.looks == 1:
            grid.reply(0, Letter(header={ERROR: "the file smith-john.dcm has norm 0.37"}))
            grid.reply(1, Letter(header={ERROR: "failed", "message": "smith-john"}))

    grid.script = script
    answers = ask(grid)
    assert "smith" not in str(answers)
    assert answers.failures["south"] == str(Trouble.FAILED)
    assert "unknown reason" in answers.failures["north"]


def test_an_upload_that_flower_dropped_is_made_again(grid: Grid) -> None:
    push, tries = grid.push_messages, [0]

    def dropped(messages: Iterable[Message]) -> list[str | None]:
        tries[0] += 1
        if tries[0] < 3:
            raise ObjectPushError("object", 1, "session")
        return push(messages)

    grid.push_messages = dropped  # type: ignore[method-assign]
    grid.script = lambda grid: [grid.reply(index, Letter()) for index in (0, 1)] if grid.looks == 1 else None
    assert set(ask(grid).letters) == {"north", "south"}
    tries[0] = -10
    with pytest.raises(PeerDisconnected, match="dropped 3 uploads of the same messages"):
        ask(grid)


def test_only_registered_nodes_are_hospitals(grid: Grid) -> None:
    grid.online = {11, 99}
    assert exchange(grid).online() == {"north"}


def test_a_message_that_flower_does_not_take_ends_the_run(grid: Grid) -> None:
    grid.push_messages = lambda messages: [None for _ in messages]  # type: ignore[method-assign]
    with pytest.raises(PeerDisconnected, match="hospital north"):
        ask(grid)


@pytest.mark.parametrize("call", ["push_messages", "pull_messages", "get_node_ids"])
def test_a_superlink_that_has_forgotten_the_run_ends_it_with_a_way_on(grid: Grid, call: str) -> None:
    """As after a coordinator was stopped for some minutes: Flower's tokens have ended meanwhile."""

    def refused(*_arguments: object) -> object:
        raise httpx.HTTPStatusError("401", request=httpx.Request("POST", "https://link"), response=httpx.Response(401))

    setattr(grid, call, refused)
    with pytest.raises(PeerDisconnected, match="same command again"):
        exchange(grid).online() if call == "get_node_ids" else ask(grid)
