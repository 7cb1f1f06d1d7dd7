"""CrypTen behind the bridge: its globals answer for the current session only, and what has no place is refused."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import ConfigurationError, DeadlineExceeded, MaterialSpent, PeerViolation
from secure_computation.channel.channel import Deadlines
from secure_computation.channel.memory import DATA_OWNER, MODEL_OWNER, memory_pair
from secure_computation.crypten_bridge.communicator import TwoPartyCommunicator
from secure_computation.crypten_bridge.dealing import BinaryTripleRequest, BitRequest, Request, SquareRequest
from secure_computation.crypten_bridge.dry_run import recording_session
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.provider import (
    Corrections,
    PartyProvider,
    binary_triple_request,
)
from secure_computation.crypten_bridge.session import Session, activate, current_session
from secure_computation.engines.crypten.lowering import CrypTenLowering, lower
from secure_computation.material import ItemName
from secure_computation.randomness import Seed
from tests.secure_computation.networks import (
    ITEM,
    plain_logits,
    random_image,
    random_weights,
    run_all,
    small_network,
)

CPU = torch.device("cpu")


def new_session(rank: int = 0, requests: tuple[Request, ...] = (), channel: Any = None) -> Session:
    seed = Seed.fresh()
    return Session(
        communicator=TwoPartyCommunicator(rank=rank, channel=channel),
        provider=PartyProvider(requests, seed=seed, item=ITEM),
        streams={name: seed.stream(item=ITEM, step=0, label=name) for name in ("prev", "next", "local")},
    )


class TestOutsideOfASession:
    @pytest.mark.parametrize(
        "use",
        [
            lambda crypten: crypten.communicator.get(),
            lambda crypten: crypten.generators["local"][CPU],
            lambda crypten: crypten.mpc.get_default_provider(),
            lambda crypten: crypten.cryptensor(torch.ones(2)),
            lambda crypten: crypten.mpc.primitives.ArithmeticSharedTensor.PRZS((2,)),
            lambda crypten: crypten.mpc.primitives.BinarySharedTensor.rand(2),
        ],
        ids=["communicator", "generators", "provider", "cryptensor", "PRZS", "rand"],
    )
    def test_crypten_refuses_to_work(self, use: Any) -> None:
        with pytest.raises(ConfigurationError, match="outside of a session"):
            use(load_crypten())

    def test_session_ends_with_its_block_even_after_a_failure(self) -> None:
        session = new_session()
        with pytest.raises(RuntimeError, match="boom"), activate(session):  # noqa: PT012 - the block is what fails
            assert current_session() is session
            raise RuntimeError("boom")
        with pytest.raises(ConfigurationError):
            current_session()

    def test_sessions_nest_and_stay_in_their_thread(self) -> None:
        outer, inner = new_session(), new_session(rank=1)
        seen: list[BaseException] = []

        def look() -> None:
            try:
                current_session()
            except ConfigurationError as error:
                seen.append(error)

        with activate(outer):
            with activate(inner):
                assert load_crypten().communicator.get().get_rank() == 1
            assert load_crypten().communicator.get().get_rank() == 0
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert len(seen) == 1


class TestInstallation:
    def test_no_weak_stream_is_left_under_any_name(self) -> None:
        crypten = load_crypten()
        replaced = {"generate_random_ring_element": 0, "generate_kbit_random_tensor": 0}
        for name, module in list(sys.modules.items()):
            if name == "crypten" or name.startswith("crypten."):
                for replacement in replaced:
                    if hasattr(module, replacement):
                        function = getattr(module, replacement)
                        assert function.__module__ == "secure_computation.crypten_bridge.installation", name
                        replaced[replacement] += 1
                    assert not isinstance(getattr(module, "generators", None), dict), name
        assert all(count >= 2 for count in replaced.values())
        assert not any(
            isinstance(value, torch.Generator) for module in (crypten, crypten.mpc) for value in vars(module).values()
        )

    def test_sharings_come_from_the_sessions_streams(self) -> None:
        seed = Seed.fresh()
        with activate(
            Session(
                communicator=TwoPartyCommunicator(rank=0, channel=None),
                provider=PartyProvider((), seed=seed, item=ITEM),
                streams={name: seed.stream(item=ITEM, step=0, label=name) for name in ("prev", "next", "local")},
            )
        ):
            share = load_crypten().mpc.primitives.ArithmeticSharedTensor.PRZS((5,)).share
        expected = [seed.stream(item=ITEM, step=0, label=name).int64((5,)) for name in ("prev", "next")]
        assert np.array_equal(share.numpy(), expected[0] - expected[1])

    def test_bits_are_cut_from_ring_elements(self) -> None:
        with activate(new_session()):
            rand = load_crypten().mpc.primitives.BinarySharedTensor.rand(1000, bits=3).share
        assert sorted(rand.unique().tolist()) == list(range(8))

    def test_autograd_stays_off(self) -> None:
        crypten = load_crypten()
        with activate(new_session()):
            tensor = crypten.mpc.MPCTensor.from_shares(torch.ones(2, dtype=torch.int64))
        assert crypten.CrypTensor.AUTOGRAD_ENABLED is False
        assert tensor.requires_grad is False

    def test_only_the_cpu_and_the_64_bit_ring(self) -> None:
        crypten = load_crypten()
        with activate(new_session()):
            with pytest.raises(ConfigurationError, match="CPU"):
                crypten.generators["prev"][torch.device("cuda:0")]
            with pytest.raises(ConfigurationError, match="2\\^64"):
                crypten.common.rng.generate_random_ring_element((2,), ring_size=2**32)

    def test_crypten_imported_before_the_bridge_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "crypten", ModuleType("crypten"))
        with pytest.raises(ConfigurationError, match="imported before its bridge"):
            load_crypten()


class TestCommunicator:
    @pytest.mark.parametrize("name", ["broadcast_obj", "send_obj", "recv", "barrier", "reduce", "reset_communication"])
    def test_unsupported_calls_are_named_and_refused(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=name):
            getattr(TwoPartyCommunicator(rank=0, channel=None), name)

    def test_unsupported_reductions_are_refused(self) -> None:
        communicator = TwoPartyCommunicator(rank=0, channel=None)
        with pytest.raises(ConfigurationError, match="reduction"):
            communicator.all_reduce(torch.ones(1), op=torch.distributed.ReduceOp.MAX)
        with pytest.raises(ConfigurationError, match="batching"):
            communicator.all_reduce([torch.ones(1)])

    def test_openings_add_or_xor_and_keep_shapes(self, parties: Any, both: Any) -> None:
        left, right = (TwoPartyCommunicator(rank=rank, channel=channel) for rank, channel in enumerate(parties))
        shares = [(torch.arange(6).view(2, 3) + rank, torch.full((2,), 5 + rank)) for rank in range(2)]
        xor = torch.distributed.ReduceOp.BXOR

        def open_all(communicator: TwoPartyCommunicator) -> list[Any]:
            matrix, pair = shares[communicator.get_rank()]
            return [
                communicator.all_reduce(matrix),
                communicator.all_reduce(pair, op=xor),
                *communicator.all_reduce([matrix, pair], batched=True),
                *communicator.all_reduce([pair, matrix], op=xor, batched=True),
                communicator.gather(pair, 0),
            ]

        results = both(lambda: open_all(left), lambda: open_all(right))
        total = shares[0][0] + shares[1][0]
        for opened in results:
            assert torch.equal(opened[0], total)
            assert opened[1].tolist() == [3, 3]
            assert torch.equal(opened[2], total)
            assert opened[3].tolist() == [11, 11]
            assert opened[4].tolist() == [3, 3]
            assert torch.equal(opened[5], shares[0][0] ^ shares[1][0])
        assert [part.tolist() for part in results[0][6]] == [[5, 5], [6, 6]]
        assert results[1][6] == [None]

    def test_shares_are_not_changed_by_opening(self, parties: Any, both: Any) -> None:
        own = torch.arange(4)
        peers = [TwoPartyCommunicator(rank=rank, channel=channel) for rank, channel in enumerate(parties)]
        both(lambda: peers[0].all_reduce(own), lambda: peers[1].all_reduce(own.clone()))
        assert own.tolist() == [0, 1, 2, 3]


class TestDealingList:
    def test_request_that_is_not_the_next_one_is_refused(self) -> None:
        provider = PartyProvider((SquareRequest(output=(2,)),), seed=Seed.fresh(), item=ITEM)
        with pytest.raises(PeerViolation, match="import the model again"):
            provider.square(torch.Size((3,)))

    @pytest.mark.parametrize(
        "ask",
        [
            lambda provider: provider.B2A_rng(torch.Size((2,))),
            lambda provider: provider.wrap_rng(torch.Size((2,))),
            lambda provider: provider.generate_binary_triple(torch.Size((2,)), torch.Size((2,))),
            lambda provider: provider.generate_additive_triple(torch.Size((2,)), torch.Size((2,)), "mul"),
        ],
        ids=["bit", "wrap", "binary", "additive"],
    )
    def test_another_kind_is_refused_and_so_is_one_too_many(self, ask: Any) -> None:
        for requests in ((SquareRequest(output=(2,)),), ()):
            with pytest.raises(PeerViolation):
                ask(PartyProvider(requests, seed=Seed.fresh(), item=ITEM))

    def test_order_matters(self) -> None:
        requests = (BitRequest(output=(2,)), BinaryTripleRequest(output=(2,)))
        corrections = Corrections([torch.zeros(2, dtype=torch.int64)] * 2)
        provider = PartyProvider(requests, seed=Seed.fresh(), item=ITEM, corrections=corrections)
        with pytest.raises(PeerViolation, match="0 of 2"):
            provider.check_finished()
        with pytest.raises(PeerViolation):
            provider.generate_binary_triple(torch.Size((2,)), torch.Size((2,)))

    def test_binary_triples_have_one_shape(self) -> None:
        with pytest.raises(PeerViolation, match="different shapes"):
            binary_triple_request(torch.Size((2,)), torch.Size((3,)))

    def test_every_protocol_asks_as_its_dry_run_did(self) -> None:
        session, provider, communicator = recording_session(weights_are_opened=False)
        with activate(session):
            crypten = load_crypten()
            x = crypten.mpc.MPCTensor.from_shares(torch.empty(3, dtype=torch.int64, device="meta"))
            x.square()
            x._tensor.PRZS((2,), device="meta")
            crypten.mpc.primitives.beaver.wraps(x._tensor)
        assert [request.kind for request in provider.requests] == ["square", "wrap"]
        assert communicator.openings == [(3,), (3,)]

    def test_a_correction_is_taken_once(self) -> None:
        corrections = Corrections([torch.ones(1, dtype=torch.int64)])
        assert corrections.take(0).tolist() == [1]
        with pytest.raises(MaterialSpent):
            corrections.take(0)

    def test_repr_hides_corrections(self) -> None:
        assert repr(Corrections([torch.full((2,), 77)])) == "Corrections(<secret>)"


def test_several_sessions_at_once_do_not_disturb_each_other() -> None:
    """Different networks, weights, images and items, twelve roles in one process."""
    networks = [small_network(size) for size in (5, 6, 7, 8)]
    weights = [random_weights(network, seed) for seed, network in enumerate(networks)]
    images = [random_image(network, seed) for seed, network in enumerate(networks)]
    inputs = list(zip(networks, weights, images, strict=True))
    items = [ItemName(f"{index:064x}") for index in range(4)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        futures = [pool.submit(run_all, *own, item=item) for own, item in zip(inputs, items, strict=True)]
        results = [future.result() for future in futures]
    for result, own in zip(results, inputs, strict=True):
        assert np.abs(result.logits - plain_logits(*own)).max() < 0.01


def test_failed_session_ends_alone_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    weights, image = random_weights(network), random_image(network)
    lowering = lower(network)
    shorter = CrypTenLowering.model_validate(lowering.model_dump() | {"requests": lowering.requests[:-1]})
    without_bit = [request for request in lowering.requests if request.kind != "bit"]
    other = CrypTenLowering.model_validate(lowering.model_dump() | {"requests": without_bit})
    with pytest.raises(PeerViolation, match="asked for bit"):
        run_all(network, weights, image, lowering=other)
    with pytest.raises(PeerViolation, match="layers with weights"):
        run_all(network, weights, image, lowering=shorter)
    with pytest.raises(ConfigurationError):
        current_session()
    assert np.abs(run_all(network, weights, image).logits - plain_logits(network, weights, image)).max() < 0.01
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("in-process")]


def test_peer_that_stalls_ends_in_a_deadline_that_names_the_step(both: Any) -> None:
    channel, _ = memory_pair(DATA_OWNER, MODEL_OWNER, Deadlines(step_seconds=0.05))
    communicator = TwoPartyCommunicator(rank=0, channel=channel)
    communicator.step = "c1 (convolution2d)"
    with pytest.raises(DeadlineExceeded, match="c1"):
        communicator.all_reduce(torch.ones(2, dtype=torch.int64))
