"""CrypTen's communicator between two parties: who receives what, and that nothing but plain data crosses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from contract.errors import CallerError, ConfigurationError, PeerViolation
from secure_computation.channel.channel import Channel
from secure_computation.channel.memory import DATA_OWNER, MODEL_OWNER, memory_pair
from secure_computation.crypten_bridge.collectives import ScriptCommunicator
from secure_computation.crypten_bridge.scripts import run_in_process
from secure_computation.wire import Frame

Both = Callable[[Callable[[], Any], Callable[[], Any]], tuple[Any, Any]]
OWN = (torch.tensor([[1, 2], [3, 4]]), torch.tensor([[10, 20], [30, 40]]))


@pytest.fixture
def play(parties: tuple[Channel, Channel], both: Both) -> Callable[[Callable[[ScriptCommunicator], Any]], Any]:
    """Run the same steps at both ranks; their results."""

    def run(steps: Callable[[ScriptCommunicator], Any]) -> tuple[Any, Any]:
        left, right = (ScriptCommunicator(rank=rank, channel=channel) for rank, channel in enumerate(parties))
        return both(lambda: steps(left), lambda: steps(right))

    return run


def own(communicator: ScriptCommunicator) -> torch.Tensor:
    return OWN[communicator.get_rank()].clone()


class TestCollectives:
    @pytest.mark.parametrize("dst", [0, 1])
    def test_reduce_gives_one_rank_the_sum(self, play: Any, dst: int) -> None:
        results = play(lambda one: one.reduce(own(one), dst))
        assert torch.equal(results[dst], OWN[0] + OWN[1])
        assert results[1 - dst] is None

    def test_reduce_takes_several_and_another_operation(self, play: Any) -> None:
        xor = torch.distributed.ReduceOp.BXOR
        first, _ = play(lambda one: one.reduce([own(one), own(one)[0]], 0, op=xor, batched=True))
        assert torch.equal(first[0], OWN[0] ^ OWN[1])
        assert torch.equal(first[1], OWN[0][0] ^ OWN[1][0])

    @pytest.mark.parametrize("dst", [0, 1])
    def test_gather_gives_one_rank_both_and_the_other_nothing(self, both: Both, dst: int) -> None:
        seen: list[list[Frame]] = [[], []]
        ends = memory_pair(DATA_OWNER, MODEL_OWNER, left_recorder=seen[0].append, right_recorder=seen[1].append)
        left, right = (ScriptCommunicator(rank=rank, channel=end) for rank, end in enumerate(ends))
        results = both(lambda: left.gather(own(left), dst), lambda: right.gather(own(right), dst))
        assert all(torch.equal(got, expected) for got, expected in zip(results[dst], OWN, strict=True))
        assert results[1 - dst] == [None]
        assert [len(frames) for frames in seen] == ([1, 0] if dst == 0 else [0, 1])

    def test_all_gather_gives_both_copies_of_their_own(self, play: Any) -> None:
        def steps(one: ScriptCommunicator) -> Any:
            mine = own(one)
            gathered = one.all_gather(mine)
            mine.zero_()
            return gathered

        for gathered in play(steps):
            assert all(torch.equal(got, expected) for got, expected in zip(gathered, OWN, strict=True))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.uint8])
    @pytest.mark.parametrize("shape", [(), (3,), (0, 2), (1, 2, 2)])
    def test_broadcast_replaces_what_the_other_holds(
        self, play: Any, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        sent = (torch.arange(6)[: max(1, torch.Size(shape).numel())] % 2).to(dtype)[: torch.Size(shape).numel()]

        def steps(one: ScriptCommunicator) -> Any:
            tensor = sent.reshape(shape).clone() if one.get_rank() == 1 else torch.zeros(shape, dtype=dtype)
            return one.broadcast(tensor, 1)

        for received in play(steps):
            assert received.dtype == dtype
            assert torch.equal(received, sent.reshape(shape))

    def test_a_tensor_whose_elements_lie_apart_arrives(self, play: Any) -> None:
        results = play(lambda one: one.broadcast(own(one).t() if one.get_rank() == 0 else own(one), 0))
        assert torch.equal(results[1], OWN[0].t())
        wide = play(lambda one: one.all_gather(torch.tensor([7]).expand(3)))[0]
        assert [part.tolist() for part in wide] == [[7, 7, 7]] * 2

    @pytest.mark.parametrize("src", [0, 1])
    def test_scatter_gives_each_its_own(self, play: Any, src: int) -> None:
        results = play(lambda one: one.scatter(list(OWN) if one.get_rank() == src else [], src, size=(2, 2)))
        assert all(torch.equal(got, expected) for got, expected in zip(results, OWN, strict=True))

    def test_send_and_receive_cross(self, play: Any) -> None:
        def steps(one: ScriptCommunicator) -> Any:
            one.send(own(one), 1 - one.get_rank())
            return one.recv(torch.empty_like(own(one)))

        first, second = play(steps)
        assert torch.equal(first, OWN[1])
        assert torch.equal(second, OWN[0])

    def test_a_barrier_passes_when_both_are_there(self, play: Any) -> None:
        assert play(lambda one: one.barrier()) == (None, None)

    def test_parties_in_different_calls_notice(self, play: Any) -> None:
        with pytest.raises(PeerViolation):
            play(lambda one: one.barrier() if one.get_rank() else one.all_gather(own(one)))

    def test_another_shape_or_dtype_is_refused(self, play: Any) -> None:
        with pytest.raises(PeerViolation):
            play(lambda one: one.broadcast(torch.zeros(2 + one.get_rank()), 0))
        with pytest.raises(PeerViolation):
            play(lambda one: one.broadcast(torch.zeros(2, dtype=torch.int32 if one.get_rank() else torch.float32), 0))

    @pytest.mark.parametrize("rank", [-1, 2])
    def test_there_is_no_third_rank(self, parties: tuple[Channel, Channel], rank: int) -> None:
        communicator = ScriptCommunicator(rank=0, channel=parties[0])
        calls: tuple[Any, ...] = (communicator.reduce, communicator.gather, communicator.broadcast, communicator.send)
        for call in calls:
            with pytest.raises(ConfigurationError, match="no rank"):
                call(OWN[0], rank)
        with pytest.raises(ConfigurationError, match="itself"):
            communicator.send(OWN[0], 0)


class TestObjects:
    @pytest.mark.parametrize("value", [None, 3, "text", [1, (2.5, True)], {"a": {1: None}}, ()], ids=repr)
    def test_plain_data_arrives_as_it_was(self, play: Any, value: object) -> None:
        assert play(lambda one: one.broadcast_obj(value if one.get_rank() == 0 else None, 0)) == (value, value)

    def test_tensors_arrive_within_other_data(self, play: Any) -> None:
        _, received = play(
            lambda one: one.broadcast_obj({"w": [OWN[0], torch.tensor(1.5)]} if one.get_rank() == 0 else 0, 0)
        )
        assert torch.equal(received["w"][0], OWN[0])
        assert received["w"][1].item() == 1.5

    @pytest.mark.parametrize(
        "value",
        [torch.nn.Linear(2, 2), print, object(), {(1, 2): 3}, [{1, 2}]],
        ids=["module", "function", "object", "key", "set"],
    )
    def test_what_would_need_a_pickle_is_refused_before_anything_is_sent(
        self, parties: tuple[Channel, Channel], value: object
    ) -> None:
        communicator = ScriptCommunicator(rank=0, channel=parties[0])
        with pytest.raises(CallerError, match="stored or sent"):
            communicator.send_obj(value, 1)
        assert parties[0].traffic().bytes_sent == 0

    def test_shares_are_not_sent_as_objects(self) -> None:
        def script(crypten: Any) -> None:
            crypten.communicator.get().broadcast_obj([crypten.cryptensor(torch.ones(1), src=0)], 0)

        with pytest.raises(CallerError, match="MPCTensor"):
            run_in_process(script)

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"value": 1, "tensors": [], "more": 1},
            {"value": {"tensor": 0}, "tensors": []},
            {"value": {"tensor": -1}, "tensors": []},
            {"value": {"eval": "1"}, "tensors": []},
            {"value": {"dictionary": [[[1], 2]]}, "tensors": []},
            {"value": {"size": [1, "2"]}, "tensors": []},
            {"value": {"size": [1 << 80]}, "tensors": []},
            {"value": {"ordered": [["a", 1]], "metadata": {"eval": 1}}, "tensors": []},
            {"value": None, "tensors": [{"dtype": "object", "shape": [1]}]},
            {"value": None, "tensors": [{"dtype": "int64", "shape": [1 << 31, 1 << 31]}]},
        ],
        ids=[
            "empty",
            "unknown field",
            "no tensor",
            "negative",
            "unknown kind",
            "key",
            "side",
            "long side",
            "metadata",
            "dtype",
            "size",
        ],
    )
    def test_what_a_hostile_peer_sends_in_place_of_data_is_refused(
        self, parties: tuple[Channel, Channel], fields: dict[str, object]
    ) -> None:
        parties[0].send_hello(fields, step="object")
        with pytest.raises(PeerViolation, match="refused"):
            ScriptCommunicator(rank=1, channel=parties[1]).recv_obj(0)

    def test_a_peer_that_announces_shares_is_refused(self, parties: tuple[Channel, Channel]) -> None:
        entry = {"dtype": "int64", "shape": [1], "shares": "arithmetic", "scale": 65536}
        parties[0].send_hello({"value": {"tensor": 0}, "tensors": [entry]}, step="object")
        parties[0].send_tensor(torch.zeros(8, dtype=torch.uint8).numpy(), step="object's tensor 0")
        with pytest.raises(PeerViolation, match="in place of a value"):
            ScriptCommunicator(rank=1, channel=parties[1]).recv_obj(0)


def test_calls_are_counted_as_crypten_counts_them_while_it_is_asked_to() -> None:
    def script(crypten: Any) -> list[dict[str, float]]:
        communicator = crypten.communicator.get()
        seen = []
        for verbose in (True, False):
            crypten.cfg.communicator.verbose = verbose
            crypten.reset_communication_stats()
            communicator.all_reduce(torch.ones(5, dtype=torch.int64))
            communicator.broadcast(torch.ones(3), 0)
            communicator.barrier()
            seen.append(communicator.get_communication_stats())
        return seen

    for counted, not_counted in run_in_process(script):
        assert (counted["rounds"], counted["bytes"]) == (3, 8 * (2 * 5 + 3))
        assert not_counted == {"rounds": 0, "bytes": 0, "time": 0}


def test_a_party_has_a_name() -> None:
    def script(crypten: Any) -> list[str]:
        communicator = crypten.communicator.get()
        before = communicator.get_name()
        crypten.init(party_name="somebody")
        return [before, communicator.get_name()]

    assert run_in_process(script) == (["rank0", "somebody"], ["rank1", "somebody"])
