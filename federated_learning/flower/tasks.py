"""Flower's part: tasks taken from a SuperNode or SuperLink, and messages over its Grid.

Both run with `--isolation process`: they hand each task to whoever proves to know a secret of this machine. Here that
is our own long-lived process, which runs its own code. It keeps state between messages in memory, so secrets of secure
aggregation never reach a disk, and what Flower distributes as an application is never executed.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PullTaskInputResponse,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.serverapp import Grid
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, pull_objects
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from google.protobuf.message import DecodeError

from contract.errors import ConfigurationError, PeerDisconnected
from contract.files import replace

HEARTBEAT_SECONDS = 10.0
SHORTEST_PAUSE, LONGEST_PAUSE, GROWTH = 0.02, 0.2, 1.2
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
UPLOADS = 3
"""How often the same thing is uploaded."""
FIRST_FETCH_SECONDS, LONGEST_FETCH_SECONDS = 0.05, 0.5
Answer = TypeVar("Answer")


def upload(push: Callable[[], Answer]) -> Answer:
    """Push again what Flower drops in the middle, as it does on a machine that stands still.

    Raises Flower's ObjectPushError if something is dropped every time.
    """
    for _ in range(UPLOADS - 1):
        try:
            return push()
        except ObjectPushError:
            continue
    return push()


def fetch_parts_sooner() -> None:
    """In this process: ask for a part of a message again after 50 ms at first, and at least every half second.

    Flower 1.41 waits 1, 2, 4, ... seconds, in each leg of secure aggregation. The version is pinned, and a test sees
    that these options are there.
    """
    defaults = pull_objects.__kwdefaults__ or {}
    if not {"initial_backoff", "backoff_cap"} <= set(defaults):
        raise RuntimeError("this is another Flower than 1.41: see federated_learning/flower/tasks.py")
    defaults.update(initial_backoff=FIRST_FETCH_SECONDS, backoff_cap=LONGEST_FETCH_SECONDS)


def new_secret(folder: Path) -> Path:
    """A fresh secret of 32 bytes (mode 0600) by which our process proves itself to its SuperNode or SuperLink."""
    path = folder / "tasks.secret"
    replace(path, secrets.token_bytes(32))
    return path


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where tasks come from: a SuperNode's or SuperLink's run-time interface on this machine."""

    address: str
    certificate: bytes | None = None
    """PEM of the server's certificate; None: no TLS, loopback only."""

    def client(self, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
        """Flower's own client; raises httpx.HTTPError in its calls."""
        return RuntimeHttpClient.from_server_address(
            self.address,
            insecure=self.certificate is None,
            root_certificates=self.certificate,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), interceptor],
        )

    @contextmanager
    def task(self, token: str) -> Iterator[RuntimeHttpClient]:
        """A client for the task of `token`; Flower learns meanwhile that somebody works on it."""
        stop = threading.Event()
        client = self.client(RuntimeTokenHttpInterceptor(token))
        beat = threading.Thread(target=_heartbeat, args=(client, stop), daemon=True)
        beat.start()
        try:
            yield client
        finally:
            stop.set()
            beat.join()
            client.close()


class TaskQueue:
    """Takes tasks of one kind from a `Runtime`."""

    def __init__(self, runtime: Runtime, *, kind: TaskType, secret: bytes) -> None:
        """`secret`: what the other process was started with, see `new_secret`."""
        self._address = runtime.address
        self._kind = kind
        self._client = runtime.client(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[ACQUIRE]))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def take(self) -> str | None:
        """The next task's token, or None if there is none now. Raises PeerDisconnected."""
        try:
            response = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[self._kind]))
        except (httpx.HTTPError, DecodeError) as error:
            raise PeerDisconnected(f"Flower's process at {self._address} does not answer: read its log") from error
        return response.token or None


def serve_messages(
    reply: Callable[[Message], Message],
    runtime: Runtime,
    *,
    secret: bytes,
    goes_on: Callable[[], bool] = lambda: True,
) -> None:
    """Answer messages in this thread while `goes_on()`.

    Raises PeerDisconnected when the SuperNode ends, and when a message or its answer did not get through: a SuperNode
    waits for the answer for ever then, and only a new one goes on. The coordinator asks again, or in the next attempt.
    """
    pause = SHORTEST_PAUSE
    with closing(TaskQueue(runtime, kind=TaskType.CLIENT_APP, secret=secret)) as queue:
        while goes_on():
            token = queue.take()
            if token is None:
                time.sleep(pause)
                pause = min(pause * GROWTH, LONGEST_PAUSE)
                continue
            pause = SHORTEST_PAUSE
            try:
                _answer(reply, runtime, token)
            except Exception as error:  # Flower raises a dozen kinds: dropped uploads, missing parts, broken frames
                raise PeerDisconnected(
                    f"a message or its answer was lost on the way through the SuperNode at {runtime.address}: read its "
                    "log. It is started again"
                ) from error


def _answer(reply: Callable[[Message], Message], runtime: Runtime, token: str) -> None:
    with runtime.task(token) as client:
        message, context, _, _ = pull_task_input(client)  # the application bundle comes along, and is left alone
        answer = reply(message)
        # Half an answer would keep the coordinator waiting for the other half.
        upload(lambda: push_message(client, answer, context))
        push_task_output(client=client, context=context, sub_status=SubStatus.COMPLETED, details="")


@contextmanager
def run_server_task(runtime: Runtime, *, secret: bytes, wait_seconds: float) -> Iterator[Grid]:
    """Wait for the run that was started, and give its Grid while the block lasts; its exceptions pass through.

    Raises ConfigurationError if no run comes, PeerDisconnected if the SuperLink ends.
    """
    fetch_parts_sooner()
    token = _take_server_task(runtime, secret=secret, wait_seconds=wait_seconds)
    with runtime.task(token) as client:
        work: PullTaskInputResponse = client.PullTaskInput(PullTaskInputRequest())
        # Flower stamps each message with these.
        TaskIdentity.task_id, TaskIdentity.run_id = work.task_id, work.run.run_id
        TaskIdentity.node_id = work.context.node_id
        grid = HttpGrid(runtime.address, insecure=False, root_certificates=runtime.certificate, token=token)
        grid.set_run(run_from_proto(work.run))
        status = SubStatus.FAILED
        try:
            yield grid
            status = SubStatus.COMPLETED
        finally:
            with suppress(httpx.HTTPError):  # the run is over either way
                client.PushTaskOutput(PushTaskOutputRequest(context=work.context, sub_status=status, details=""))
            grid.close()


def _take_server_task(runtime: Runtime, *, secret: bytes, wait_seconds: float) -> str:

    end = time.monotonic() + wait_seconds
    with closing(TaskQueue(runtime, kind=TaskType.SERVER_APP, secret=secret)) as queue:
        while time.monotonic() < end:
            if token := queue.take():
                return token
            time.sleep(0.1)
    raise ConfigurationError(f"Flower started no run within {wait_seconds:.0f} s: read superlink.log")


def _heartbeat(client: RuntimeHttpClient, stop: threading.Event) -> None:

    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(httpx.HTTPError):  # the task's own next call says what is wrong
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
