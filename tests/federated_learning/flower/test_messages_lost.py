"""Messages and answers that Flower loses: a hospital goes on with a new SuperNode, and nothing of its own ends."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory

from contract.errors import ConfigurationError, PeerDisconnected
from federated_learning.flower import running, supernode, tasks
from federated_learning.flower.records import from_records
from federated_learning.flower.running import run_hospital
from federated_learning.flower.tasks import UPLOADS, Runtime, TaskQueue, serve_messages
from federated_learning.rounds.letters import ERROR, Step, read_trouble
from tests.federated_learning.rounds.local import LocalTraining

LOST = [
    ObjectPushError("object", 1, "session"),
    ObjectPullError("object", "the object could not be found."),
    httpx.ReadTimeout("slow"),
    RuntimeError("No messages received from Runtime API"),
    KeyError("a part that is missing"),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> LocalTraining:
    return LocalTraining(tmp_path_factory.mktemp("federation"), hospitals=3)


@contextmanager
def task(_runtime: Runtime, _token: str) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace()


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Flower's calls, as a SuperNode would answer them."""
    calls: dict[str, Any] = {
        "pull_task_input": lambda _client: ("question", "context", None, None),
        "push_message": lambda _client, _message, _context: None,
        "push_task_output": lambda **_output: None,
    }
    monkeypatch.setattr(Runtime, "task", task)
    monkeypatch.setattr(TaskQueue, "take", lambda _queue: "token")
    for name in calls:
        monkeypatch.setattr(tasks, name, lambda *given, _name=name, **named: calls[_name](*given, **named))
    return calls


@pytest.mark.parametrize("call", ["pull_task_input", "push_message", "push_task_output"])
@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_whatever_flower_loses_asks_for_a_new_supernode(flower: dict[str, Any], call: str, error: Exception) -> None:
    def lose(*_given: object, **_named: object) -> None:
        raise error

    flower[call] = lose
    with pytest.raises(PeerDisconnected, match="was lost on the way"):
        serve_messages(lambda _message: None, Runtime(address="127.0.0.1:1"), secret=bytes(32))  # type: ignore[arg-type,return-value]


def test_an_answer_that_flower_dropped_in_the_middle_is_uploaded_again(flower: dict[str, Any]) -> None:
    pushed: list[object] = []

    def push(_client: object, message: object, _context: object) -> None:
        pushed.append(message)
        if len(pushed) < UPLOADS:
            raise ObjectPushError("object", 1, "session")

    flower["push_message"] = push
    goes_on = iter([True, False])
    runtime = Runtime(address="127.0.0.1:1")
    serve_messages(lambda _message: "answer", runtime, secret=bytes(32), goes_on=lambda: next(goes_on))  # type: ignore[arg-type,return-value]
    assert pushed == ["answer"] * UPLOADS


def test_a_hospital_goes_on_with_the_next_supernode(federation: LocalTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one loses an answer, the second one does not start in time, the third one brings the end of the run."""
    lives: list[object] = []

    @contextmanager
    def started(*_given: object, **_named: object) -> Iterator[tuple[Any, Runtime, bytes]]:
        lives.append(object())
        if len(lives) == 2:
            raise ConfigurationError("the SuperNode does not listen after 90 s")
        yield SimpleNamespace(ended=lambda **_: False), Runtime(address="127.0.0.1:1"), bytes(32)

    def serve(reply: Callable[[Message], Message], _runtime: Runtime, **_named: object) -> None:
        if len(lives) == 1:
            raise PeerDisconnected("an answer was lost on the way")
        reply(message(Step.FINISH.value))

    monkeypatch.setattr(running, "Message", replied)
    monkeypatch.setattr(running, "supernode", started)
    monkeypatch.setattr(running, "serve_messages", serve)
    monkeypatch.setattr(running, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(running, "watch_coordinator", lambda *_given, **_named: nullcontext())
    said: list[str] = []
    run_hospital(federation.hospital_settings("hospital-a"), say=said.append)
    assert len(lives) == 3
    assert said[-3:] == [
        "an answer was lost on the way",
        "the SuperNode does not listen after 90 s; trying again",
        "the run is finished",
    ]


def replied(content: RecordDict, *, reply_to: object) -> Any:
    return SimpleNamespace(content=content, reply_to=reply_to)


def message(kind: str, content: RecordDict | None = None) -> Any:
    if content is None:
        content = RecordDict({"header": ConfigRecord({"json": "{}"}), "parts": ConfigRecord()})
    return SimpleNamespace(metadata=SimpleNamespace(message_type=kind), content=content)


@pytest.mark.parametrize(
    "hostile",
    [
        message("query.unknown"),
        message("train"),
        message(Step.TRAIN.value),
        message(Step.TRAIN.value, RecordDict()),
        message(
            Step.TRAIN.value, RecordDict({"header": ConfigRecord({"json": "[" * 100_000}), "parts": ConfigRecord()})
        ),
        message(Step.FINISH.value, RecordDict({"header": ConfigRecord({"json": "1"}), "parts": ConfigRecord()})),
        message(
            Step.FINISH.value,
            RecordDict({"header": ConfigRecord({"json": "{}"}), "parts": ConfigRecord({"a": bytes(101)})}),
        ),
    ],
    ids=["unknown step", "no step", "no order", "no content", "deep", "no object", "too long"],
)
def test_a_message_of_any_form_is_answered(
    federation: LocalTraining, monkeypatch: pytest.MonkeyPatch, hostile: Message
) -> None:
    monkeypatch.setattr(running, "Message", replied)
    session = federation.exchange.sessions["hospital-a"]
    reply: Any = running._reply(session, hostile, 100)
    answer = from_records(reply.content, max_bytes=0)
    assert reply.reply_to is hostile
    assert set(answer.header) == {ERROR}
    assert read_trouble(answer) is not None
    assert not session.finished


def test_a_hospital_sends_no_seconds_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    state = NodeStateFactory(ObjectStoreFactory()).state()
    kind = type(state)
    monkeypatch.setattr(kind, "get_message_processing_duration", lambda _state, message_id: float(len(message_id)))
    assert state.get_message_processing_duration(message_id="one") == 3
    supernode.tell_no_durations()
    assert state.get_message_processing_duration(message_id="one") == 0
    assert ".get_message_processing_duration(" in inspect.getsource(start_client_internal)


def test_a_supernode_takes_in_no_more_than_messages_of_its_run_need() -> None:
    code = "from federated_learning.flower.supernode import bound_memory; bound_memory(1 << 29)\n"
    code += "try: bytearray(1 << 30)\nexcept MemoryError: print('refused')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
