"""A CrypTen user's own script: each operation against plaintext, and what a session leaves behind."""

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import (
    ConfigurationError,
    DeadlineExceeded,
    EncryptedInferenceError,
    PeerDisconnected,
    PeerReported,
    PeerViolation,
)
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.scripts import find_first_cause, run_in_process
from secure_computation.crypten_bridge.session import current_session, find_script

TOLERANCE = 0.02
Operation = Callable[[Any, Any], Any]

PRODUCTS: dict[str, tuple[Operation, tuple[int, ...], tuple[int, ...]]] = {
    "mul": (lambda x, y: x * y, (2, 3), (2, 3)),
    "mul of a row": (lambda x, y: x * y, (2, 3), (3,)),
    "mul with a scalar tensor": (lambda x, y: x * y, (2, 3), (1,)),
    "matmul": (lambda x, y: x.matmul(y), (2, 3), (3, 4)),
    "matmul of a batch": (lambda x, y: x.matmul(y), (2, 2, 3), (3, 2)),
    "division": (lambda x, y: x.div(y * y + 1.0), (3,), (3,)),
    "maximum": (lambda x, y: (x - y).relu() + y, (4,), (4,)),
    "comparison": (lambda x, y: (x > y) * 1.0, (5,), (5,)),
    "comparison with broadcasting": (lambda x, y: (x > y) * 1.0, (2, 3), (3,)),
}
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv1d": ((1, 2, 7), (3, 2, 3), {"stride": 2, "padding": 1}),
    "conv1d of an image alone": ((2, 7), (3, 2, 3), {}),
    "conv1d in groups": ((2, 4, 9), (4, 2, 3), {"dilation": (2,), "groups": 2}),
    "conv2d": ((1, 2, 5, 6), (3, 2, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    "conv_transpose1d": ((1, 2, 5), (2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "conv_transpose1d in groups": ((1, 4, 5), (4, 2, 3), {"groups": 2, "dilation": 2}),
    "conv_transpose2d": ((1, 2, 3, 4), (2, 2, 2, 3), {"stride": (2, 1), "padding": (0, 1)}),
    "conv_transpose2d with more at the end": ((1, 2, 3, 3), (2, 1, 3, 3), {"stride": 2, "output_padding": (1, 0)}),
}


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 4 - 2


def share_both(crypten: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[Any, Any]:
    """x is rank 0's and y rank 1's: neither party gives the other's value."""
    rank = crypten.communicator.get().get_rank()
    return (
        crypten.cryptensor(x if rank == 0 else torch.zeros_like(x), src=0),
        crypten.cryptensor(y if rank == 1 else torch.zeros_like(y), src=1),
    )


def check(operation: Operation, x: torch.Tensor, y: torch.Tensor, expected: torch.Tensor) -> None:
    def script(crypten: Any) -> torch.Tensor:
        result: torch.Tensor = operation(*share_both(crypten, x, y)).get_plain_text()
        return result

    for result in run_in_process(script):
        assert result.shape == expected.shape
        assert (result - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", PRODUCTS)
def test_an_operation_gives_what_plaintext_gives(name: str) -> None:
    operation, left, right = PRODUCTS[name]
    x, y = draw(left, 1), draw(right, 2)
    check(operation, x, y, operation(x, y))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_gives_what_plaintext_gives(name: str) -> None:
    left, right, options = CONVOLUTIONS[name]
    x, y, operation = draw(left, 1), draw(right, 2), name.split(maxsplit=1)[0]
    check(lambda a, b: getattr(a, operation)(b, **options), x, y, getattr(torch, operation)(x, y, **options))


@st.composite
def broadcastable(draw_: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that fit each other: sides of 1, and dimensions that one of them lacks."""
    whole = draw_(st.lists(st.integers(0, 3), max_size=4))
    left, right = (
        [1 if draw_(st.booleans()) else side for side in whole][draw_(st.integers(0, len(whole))) :] for _ in range(2)
    )
    return tuple(left), tuple(right)


@settings(max_examples=12, deadline=None)
@given(shapes=broadcastable(), seed=st.integers(0, 1000))
def test_products_and_binary_triples_broadcast_as_torch_does(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int
) -> None:
    x, y = draw(shapes[0], seed), draw(shapes[1], seed + 1)
    bits = [(value * 100).long() for value in (x, y)]

    def script(crypten: Any) -> tuple[torch.Tensor, torch.Tensor]:
        ours = share_both(crypten, x, y)
        binary = crypten.mpc.primitives.BinarySharedTensor
        masked = crypten.mpc.primitives.beaver.AND(*(binary(value, src=rank) for rank, value in enumerate(bits)))
        return (ours[0] * ours[1]).get_plain_text(), masked.get_plain_text()

    for product, conjunction in run_in_process(script):
        assert product.shape == (x * y).shape
        assert torch.allclose(product, x * y, atol=TOLERANCE)
        assert torch.equal(conjunction.long(), bits[0] & bits[1])


def test_shares_that_were_dealt_out_become_a_tensor() -> None:
    def script(crypten: Any) -> torch.Tensor:
        rank = crypten.communicator.get().get_rank()
        share = torch.tensor([5, -7]) << 15 if rank == 0 else torch.tensor([1, 3]) << 15
        result: torch.Tensor = crypten.mpc.MPCTensor.from_shares(share).get_plain_text()
        return result

    assert [result.tolist() for result in run_in_process(script)] == [[3.0, -2.0]] * 2


def test_what_is_opened_to_one_party_reaches_no_other() -> None:
    def script(crypten: Any) -> object:
        return crypten.cryptensor(torch.tensor([1.5]), src=0).get_plain_text(dst=1)

    first, second = run_in_process(script)
    assert first is None
    assert isinstance(second, torch.Tensor)
    assert second.item() == 1.5


class TestAutograd:
    def test_gradients_are_those_of_torch(self) -> None:
        x, w = draw((3, 2), 1), draw((2, 2), 2)

        def script(crypten: Any) -> torch.Tensor:
            a, b = share_both(crypten, x, w)
            b.requires_grad = True
            a.matmul(b).sigmoid().sum().backward()
            gradient: torch.Tensor = b.grad.get_plain_text()
            return gradient

        plain = w.clone().requires_grad_()
        torch.autograd.backward((x @ plain).sigmoid().sum())
        assert plain.grad is not None
        for gradient in run_in_process(script):
            assert (gradient - plain.grad).abs().max() < 0.05

    def test_a_session_without_it_records_nothing(self) -> None:
        def script(crypten: Any) -> bool:
            x = crypten.cryptensor(torch.ones(2), src=0, requires_grad=True)
            return (x * 2).grad_fn is None and not crypten.CrypTensor.AUTOGRAD_ENABLED

        assert run_in_process(script, autograd=False) == (True, True)

    def test_no_grad_ends_with_its_block(self) -> None:
        def script(crypten: Any) -> list[bool]:
            seen = [crypten.CrypTensor.AUTOGRAD_ENABLED]
            with crypten.no_grad():
                seen.append(crypten.CrypTensor.AUTOGRAD_ENABLED)
            return [*seen, crypten.CrypTensor.AUTOGRAD_ENABLED]

        assert run_in_process(script) == ([True, False, True],) * 2


class TestRandomness:
    def test_dropout_leaves_out_the_same_at_both_parties_and_other_places_each_time(self) -> None:
        def script(crypten: Any) -> list[torch.Tensor]:
            ones = crypten.cryptensor(torch.ones(4, 50), src=0)
            return [ones.dropout(p=0.5).get_plain_text(), ones.dropout(p=0.5).get_plain_text()]

        first, second = run_in_process(script)
        assert torch.equal(first[0], second[0])
        assert set(first[0].round().flatten().tolist()) == {0.0, 2.0}
        assert 40 < int((first[0] > 1).sum()) < 160
        assert not torch.equal(*first)

    def test_feature_dropout_leaves_out_whole_features(self) -> None:
        def script(crypten: Any) -> torch.Tensor:
            ones = crypten.cryptensor(torch.ones(4, 25, 2, 2), src=0)
            result: torch.Tensor = ones._feature_dropout(p=0.5).get_plain_text()
            return result

        kept = run_in_process(script)[0].flatten(2)
        assert torch.equal(kept.amin(dim=2), kept.amax(dim=2))
        assert 10 < int((kept[..., 0] > 1).sum()) < 90

    def test_random_tensors_lie_between_0_and_1(self) -> None:
        def script(crypten: Any) -> torch.Tensor:
            result: torch.Tensor = crypten.rand(200).get_plain_text()
            return result

        values = run_in_process(script)[0]
        assert bool(((values >= 0) & (values < 1)).all())
        assert len(set(values.tolist())) > 150

    def test_a_sharing_of_zero_is_one_and_is_random(self) -> None:
        def script(crypten: Any) -> torch.Tensor:
            share: torch.Tensor = crypten.mpc.primitives.ArithmeticSharedTensor.PRZS((20,)).share
            return share

        first, second = run_in_process(script)
        assert torch.equal(first, -second)
        assert len(set(first.tolist())) == 20

    def test_two_sessions_share_no_random_number(self) -> None:
        def script(crypten: Any) -> set[int]:
            numbers: list[int] = []
            for name in ("prev", "next", "local", "global"):
                numbers += crypten.generators[name][torch.device("cpu")].int64((8,)).tolist()
            return set(numbers)

        seen = [*run_in_process(script), *run_in_process(script)]
        # The parties have all streams in common but `local`; nothing else comes twice.
        assert [len(numbers) for numbers in seen] == [32] * 4
        assert len(set.union(*seen)) == 2 * (32 + 8)


@pytest.mark.parametrize("kind", [PeerReported, PeerDisconnected, DeadlineExceeded])
def test_what_a_script_raises_is_told_rather_than_what_the_others_met_then(kind: type[EncryptedInferenceError]) -> None:
    met, own, violation = kind.__new__(kind), ValueError("the script's own"), PeerViolation("the scripts part ways")
    assert find_first_cause([met, own]) is own
    assert find_first_cause([met, violation]) is violation


class TestAfterASession:
    def test_nothing_of_it_is_left(self) -> None:
        crypten = load_crypten()

        def script(crypten: Any) -> None:
            crypten.cfg.functions.exp_iterations = 3
            crypten.cfg.encoder.precision_bits = 12
            crypten.set_grad_enabled(False)
            crypten.communicator.get().set_name("somebody")

        run_in_process(script)
        assert find_script() is None
        assert crypten.cfg.functions.exp_iterations == 8
        assert crypten.cfg.encoder.precision_bits == 16
        assert not crypten.is_initialized()
        run_in_process(
            lambda crypten: (
                pytest.fail("settings stayed") if crypten.cfg.functions.exp_iterations != 8 else None,
                pytest.fail("autograd stayed off") if not crypten.CrypTensor.AUTOGRAD_ENABLED else None,
            )
        )

    def test_settings_outside_of_a_session_are_not_changed(self) -> None:
        crypten = load_crypten()
        with pytest.raises(ConfigurationError, match="outside of a session"):
            crypten.cfg.functions.exp_iterations = 3

    def test_an_override_ends_with_its_block_and_holds_for_one_session(self) -> None:
        meeting = threading.Barrier(4, timeout=60)

        def script(crypten: Any, iterations: int) -> list[int]:
            before = crypten.cfg["functions.exp_iterations"]
            with crypten.cfg.temp_override({"functions.exp_iterations": iterations}):
                meeting.wait()
                during = crypten.cfg.functions.exp_iterations
            return [before, during, crypten.cfg.functions.exp_iterations]

        results: dict[int, Any] = {}
        threads = [
            threading.Thread(
                target=lambda own=own: results.update({own: run_in_process(lambda crypten: script(crypten, own))})
            )
            for own in (3, 5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {3: ([8, 3, 8],) * 2, 5: ([8, 5, 8],) * 2}

    def test_a_script_that_fails_ends_the_session_at_both_parties(self) -> None:
        def script(crypten: Any) -> None:
            if crypten.communicator.get().get_rank() == 1:
                raise ZeroDivisionError
            crypten.cryptensor(torch.ones(2), src=0).get_plain_text()

        with pytest.raises(ZeroDivisionError):
            run_in_process(script)
        with pytest.raises(ConfigurationError):
            current_session()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("crypten-script")]


class TestScriptsThatPartWays:
    def test_the_dealer_gives_neither_a_tuple(self) -> None:
        def script(crypten: Any) -> None:
            x = crypten.cryptensor(torch.ones(4), src=0)
            if crypten.communicator.get().get_rank() == 0:
                x.square()
            else:
                x * x

        with pytest.raises(PeerViolation, match="part ways at tuple 0"):
            run_in_process(script)

    def test_one_that_ends_early_is_noticed(self) -> None:
        def script(crypten: Any) -> None:
            if crypten.communicator.get().get_rank() == 0:
                crypten.cryptensor(torch.ones(4), src=0).square()

        with pytest.raises(PeerViolation):
            run_in_process(script)


def test_a_tensor_shows_no_share() -> None:
    def script(crypten: Any) -> tuple[str, list[int]]:
        x = crypten.cryptensor(torch.tensor([1.0, 2.0]), src=0)
        return f"{x!r} {x._tensor!r} {x.to(crypten.mpc.ptype.binary)._tensor!r}", x.share.tolist()

    for shown, share in run_in_process(script):
        assert shown.count("shares withheld") == 3
        assert not any(str(word) in shown for word in share)


def test_a_mean_over_many_values_stays_exact_enough() -> None:
    values = draw((1000,), 3)

    def script(crypten: Any) -> float:
        return float(crypten.cryptensor(values, src=1).mean().get_plain_text())

    assert math.isclose(run_in_process(script)[1], float(values.mean()), abs_tol=TOLERANCE)
