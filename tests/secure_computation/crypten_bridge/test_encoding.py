"""What a script gives CrypTen: nonsense is refused before it becomes a share, and sound numbers arrive."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import CallerError, ConfigurationError, PeerViolation
from secure_computation.crypten_bridge.scripts import run_in_process

VALUE = torch.tensor([1.5, -2.0])
BEYOND: dict[str, Any] = {
    "NaN": torch.tensor([0.0, float("nan")]),
    "infinity": torch.tensor([float("-inf")]),
    "1e15": torch.tensor([1e15]),
    "the first that overflows": torch.tensor([-(2.0**47)]),
    "a whole number": torch.tensor([1 << 50]),
    "an array": np.array([np.nan]),
    "a list": [1e15],
    "a number": 1e15,
    "a number that is none": float("nan"),
}
ELSEWHERE: dict[str, Callable[[Any, Any], object]] = {
    "cryptensor(device=)": lambda crypten, _: crypten.cryptensor(VALUE, device="meta"),
    "a tensor that lies there": lambda crypten, _: crypten.cryptensor(VALUE.to("meta")),
    "a placeholder that lies there": lambda crypten, _: crypten.cryptensor(VALUE.to("meta"), src=1),
    "a binary tensor": lambda crypten, _: crypten.mpc.primitives.BinarySharedTensor(VALUE.long(), device="meta"),
    "a zero sharing": lambda crypten, _: crypten.mpc.primitives.ArithmeticSharedTensor.PRZS((2,), device="meta"),
    "shares": lambda crypten, _: crypten.mpc.MPCTensor.from_shares(VALUE.long().to("meta")),
    "rand": lambda crypten, _: crypten.rand(2, device="meta"),
    "to": lambda _, x: x.to("meta"),
    "to by its name": lambda _, x: x.to(device=torch.device("meta")),
    "to another's": lambda _, x: x.to(torch.empty(0, device="meta")),
    "to of a primitive": lambda _, x: x._tensor.to("meta"),
    "to a number": lambda _, x: x.to(0),
    "cuda": lambda _, x: x.cuda(),
    "cuda of a primitive": lambda _, x: x._tensor.cuda(),
    "a summand": lambda _, x: x + VALUE.to("meta"),
    "a factor": lambda _, x: x * VALUE.to("meta"),
    "a whole factor": lambda _, x: x * VALUE.long().to("meta"),
    "a divisor": lambda _, x: x / VALUE.long().to("meta"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_the_ring_cannot_hold_is_refused_wherever_it_comes_in(name: str) -> None:
    def script(crypten: Any) -> int:
        refused = 0
        x = crypten.cryptensor(torch.ones(1), src=0)
        operations: tuple[Callable[[Any], object], ...] = (
            lambda value: crypten.cryptensor(value, src=crypten.communicator.get().get_rank()),
            lambda value: x + (value if not isinstance(value, list | np.ndarray) else torch.tensor(value)),
            lambda value: x * (float(value[0] if not isinstance(value, float) else value) or float("nan")),
        )
        for operation in operations:
            with pytest.raises(CallerError, match="finite numbers below 2\\^47") as error:
                operation(BEYOND[name])
            assert "e+" not in str(error.value)
            refused += 1
        return refused

    assert run_in_process(script) == (3, 3)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_device_that_does_not_compute_is_refused_by_name(name: str) -> None:
    def script(crypten: Any) -> None:
        x = crypten.cryptensor(VALUE, src=0)
        with pytest.raises(ConfigurationError, match="not the CPU is not offered"):
            ELSEWHERE[name](crypten, x)

    run_in_process(script)


def test_shares_are_integers_of_64_bits() -> None:
    def script(crypten: Any) -> None:
        x = crypten.cryptensor(VALUE, src=0)
        uses: tuple[Callable[[], object], ...] = (
            lambda: x.to(torch.float32),
            lambda: crypten.mpc.MPCTensor.from_shares(torch.ones(1).int()),
        )
        for use in uses:
            with pytest.raises(ConfigurationError, match="not of 64 bits"):
                use()

    run_in_process(script)


@pytest.mark.parametrize(
    "value",
    [
        np.array([0.5, -3.25]),
        [0.5, -3.25],
        torch.tensor([0.5, -3.25], dtype=torch.float16),
        torch.tensor([0.5, -3.25], dtype=torch.bfloat16),
        torch.tensor([2.0**47 * (1 - 2**-20), -(2.0**46)], dtype=torch.float64),
        torch.tensor([(1 << 47) - (1 << 30), -7]),
    ],
    ids=["array", "list", "float16", "bfloat16", "largest", "largest integer"],
)
def test_numbers_that_fit_arrive(value: Any) -> None:
    def script(crypten: Any) -> torch.Tensor:
        crypten.cryptensor(VALUE, src=0).to("cpu")
        plain: torch.Tensor = crypten.cryptensor(value, src=0).get_plain_text()
        return plain

    expected = torch.as_tensor(value).double()
    assert all(torch.equal(plain.double(), expected.float().double()) for plain in run_in_process(script))


@pytest.mark.parametrize("make", [torch.empty, torch.full], ids=["empty", "NaN"])
def test_of_a_placeholder_only_the_size_counts(make: Any) -> None:
    def script(crypten: Any) -> torch.Tensor:
        other = make((2,), **({"fill_value": float("nan")} if make is torch.full else {}))
        mine = crypten.communicator.get().get_rank() == 1
        plain: torch.Tensor = crypten.cryptensor(VALUE if mine else other, src=1).get_plain_text()
        return plain

    assert all(torch.equal(plain, VALUE) for plain in run_in_process(script))


@pytest.mark.parametrize(
    "steps",
    [
        lambda crypten, rank: crypten.cryptensor(torch.ones(2 + rank), src=0).get_plain_text(),
        lambda crypten, rank: crypten.cryptensor(torch.ones(2 + rank, 3 - rank), src=0).get_plain_text(),
        lambda crypten, rank: crypten.communicator.get().broadcast(torch.zeros(2 + rank), 0),
        lambda crypten, rank: crypten.communicator.get().broadcast(
            torch.zeros(2, dtype=(torch.int, torch.float)[rank]), 0
        ),
        lambda crypten, rank: crypten.communicator.get().reduce(torch.zeros(2 + rank), 1),
        lambda crypten, rank: crypten.communicator.get().barrier() if rank else crypten.rand(2).get_plain_text(),
    ],
    ids=["opened", "as many elements", "broadcast", "dtype", "reduce", "another call"],
)
def test_parties_whose_tensors_differ_are_told_so(steps: Any) -> None:
    with pytest.raises(PeerViolation, match="part ways") as error:
        run_in_process(lambda crypten: steps(crypten, crypten.communicator.get().get_rank()))
    assert "broke the protocol" not in str(error.value)
